package attest_test

import (
	"slices"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest/attesttest"
)

// The tasks of nova/compute/task_states.py, by what they mean for a caller that
// claims to be the instance, and words that are none of them.
var (
	harmlessTasks = []string{
		"", "image_snapshot", "image_snapshot_pending", "image_pending_upload", "image_uploading", "image_backup",
		"updating_password", "migrating",
	}
	passingTasks = []string{
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

func TestStatusAndTask(t *testing.T) {
	denied, changing := no(attest.StatusDenied), later(attest.InstanceChanging)
	tests := []struct {
		name                     string
		statuses                 []string
		harmless, passing, other string // what becomes of a request during a task
	}{
		{
			"it has ended", []string{"ERROR", "DELETED", "SOFT_DELETED"},
			denied, denied, denied,
		},
		{
			"it does not run", []string{
				"HARD_REBOOT", "PAUSED", "REBOOT", "REBUILD", "RESCUE", "RESIZE", "REVERT_RESIZE", "SHELVED", "SHELVED_OFFLOADED",
				"SHUTOFF", "SUSPENDED", "UNKNOWN",
			},
			denied, changing, denied,
		},
		{
			"nobody knows the word", []string{"", "active", "ACTIVE ", "ACTIVE\n", "INACTIVE", "VERIFY", "SOMETHING_NEW"},
			denied, changing, denied,
		},
		{
			"it is being built", []string{"BUILD"},
			changing, changing, changing,
		},
		{
			"it runs", []string{"ACTIVE", "PASSWORD", "VERIFY_RESIZE", "MIGRATING"},
			granted, changing, denied,
		},
	}
	for _, tt := range tests {
		for _, status := range tt.statuses {
			t.Run(tt.name+": "+status, func(t *testing.T) {
				for _, class := range []struct {
					tasks []string
					want  string
				}{{harmlessTasks, tt.harmless}, {passingTasks, tt.passing}, {otherTasks, tt.other}} {
					for _, task := range class.tasks {
						attempts := &attesttest.State{}
						s := newScene(t)
						s.attempts = attempts
						s.instance.Status, s.instance.TaskState = status, task
						if got := s.ask(t); got != class.want {
							t.Errorf("status %q, task %q: %s, want %s", status, task, got, class.want)
						}
						if spent := attempts.Writes() > 0; spent != (class.want == granted) {
							t.Errorf("status %q, task %q: %s, attempt spent %v", status, task, class.want, spent)
						}
					}
				}
			})
		}
	}
	if c := slices.Concat(harmlessTasks, passingTasks, otherTasks); len(c) != len(slices.Compact(slices.Sorted(slices.Values(c)))) {
		t.Error("a task is listed twice")
	}
}

// A caller that is told to come back must be told when.
func TestNotYetSaysWhen(t *testing.T) {
	for name, edit := range map[string]func(*scene){
		"a task":       func(s *scene) { s.instance.TaskState = "rebuilding" },
		"the build":    func(s *scene) { s.instance.Status = "BUILD" },
		"never booted": func(s *scene) { s.window.Since, s.instance.Launched = attest.SinceLaunched, time.Time{} },
	} {
		s := newScene(t)
		edit(s)
		_, _, err := s.attestor(t).Attest(t.Context(), s.request(t))
		n, ok := err.(*attest.NotYet) //nolint:errorlint // the contract is the type itself
		if !ok || n.After <= 0 || n.After > time.Minute {
			t.Errorf("%s: %#v, want a NotYet with a wait of some seconds", name, err)
		}
	}
}
