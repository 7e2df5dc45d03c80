package openstack

import (
	"slices"
	"testing"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
)

// The tasks of nova/compute/task_states.py, by what they mean for the instance, and
// words that Nova does not know.
var (
	harmlessTasks = []string{
		"", "image_snapshot", "image_snapshot_pending", "image_pending_upload", "image_uploading", "image_backup",
		"updating_password", "migrating",
	}
	startingTasks = []string{
		"scheduling", "block_device_mapping", "networking", "spawning",
		"powering-on", "unpausing", "resuming", "unrescuing", "unshelving",
		"rebooting", "reboot_pending", "reboot_started", "rebooting_hard", "reboot_pending_hard", "reboot_started_hard",
		"rebuilding", "rebuild_block_device_mapping", "rebuild_spawning",
		"resize_prep", "resize_migrating", "resize_migrated", "resize_finish", "resize_reverting", "resize_confirming",
	}
	otherTasks = []string{
		"deleting", "soft-deleting", "restoring", "powering-off", "pausing", "suspending", "rescuing",
		"shelving", "shelving_image_pending_upload", "shelving_image_uploading", "shelving_offloading",
		"image", "Image_snapshot", "an image_snapshot", "MIGRATING", "migrating ", "migrating_away", "updating_passwords",
		"none", "null", "Spawning", "spawning ", "powering_on", "resize", "something new",
	}
)

func TestPhaseOfStatusAndTask(t *testing.T) {
	const inactive, changing, running = attest.PhaseInactive, attest.PhaseChanging, attest.PhaseRunning
	for _, tt := range []struct {
		name                      string
		statuses                  []string
		harmless, starting, other attest.Phase // during a task
	}{
		{"it has ended", []string{"ERROR", "DELETED", "SOFT_DELETED"}, inactive, inactive, inactive},
		{
			"it does not run", []string{
				"HARD_REBOOT", "PAUSED", "REBOOT", "REBUILD", "RESCUE", "RESIZE", "REVERT_RESIZE", "SHELVED", "SHELVED_OFFLOADED",
				"SHUTOFF", "SUSPENDED", "UNKNOWN",
			}, inactive, changing, inactive,
		},
		{"an unknown word", []string{"", "active", "ACTIVE ", "ACTIVE\n", "INACTIVE", "VERIFY", "SOMETHING_NEW"}, inactive, changing, inactive},
		{"it is being built", []string{"BUILD"}, attest.PhaseBuilding, attest.PhaseBuilding, attest.PhaseBuilding},
		{"it runs", []string{"ACTIVE", "PASSWORD", "VERIFY_RESIZE", "MIGRATING"}, running, changing, inactive},
	} {
		for _, class := range []struct {
			tasks []string
			want  attest.Phase
		}{{harmlessTasks, tt.harmless}, {startingTasks, tt.starting}, {otherTasks, tt.other}} {
			for _, status := range tt.statuses {
				for _, task := range class.tasks {
					want := class.want
					if want == attest.PhaseBuilding && task == "spawning" {
						want = attest.PhaseSpawning
					}
					if got := phase(status, task); got != want {
						t.Errorf("%s: status %q, task %q: %q, want %q", tt.name, status, task, got, want)
					}
				}
			}
		}
	}
	if c := slices.Concat(harmlessTasks, startingTasks, otherTasks); len(c) != len(slices.Compact(slices.Sorted(slices.Values(c)))) {
		t.Error("a task is listed twice")
	}
}

func TestLaunching(t *testing.T) {
	for _, task := range slices.Concat(harmlessTasks, startingTasks, otherTasks) {
		want := slices.Contains([]string{"spawning", "rebuild_spawning", "resize_finish"}, task)
		if launching(task) != want {
			t.Errorf("%q: %v", task, !want)
		}
	}
}
