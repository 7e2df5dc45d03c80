package openstack

import (
	"strings"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
)

// phase translates Nova's status and task (nova/api/openstack/common.py,
// nova/compute/task_states.py). Unknown words are inactive.
func phase(status, task string) attest.Phase {
	switch status {
	case "ERROR", "DELETED", "SOFT_DELETED": // never runs again, whatever task is left in the record
		return attest.PhaseInactive
	case "BUILD":
		if task == "spawning" {
			return attest.PhaseSpawning
		}
		return attest.PhaseBuilding
	case "ACTIVE", "PASSWORD", "VERIFY_RESIZE", "MIGRATING":
		if task == "" || strings.HasPrefix(task, "image_") || task == "updating_password" || task == "migrating" {
			return attest.PhaseRunning
		}
	}
	switch task {
	case "scheduling", "networking", "block_device_mapping", "spawning",
		"powering-on", "unpausing", "resuming", "unrescuing", "unshelving":
		return attest.PhaseChanging
	}
	for _, prefix := range []string{"reboot", "rebuild", "resize_"} {
		if strings.HasPrefix(task, prefix) {
			return attest.PhaseChanging
		}
	}
	return attest.PhaseInactive
}

// launching reports whether a task starts when the old system no longer runs, and ends with another launched_at
// (nova/compute/manager.py). The task before rebuild_spawning, rebuilding, starts while the old system runs.
func launching(task string) bool {
	return task == "spawning" || task == "rebuild_spawning" || task == "resize_finish"
}

// state names status and task for the operator.
func state(status, task string) string {
	if task == "" {
		return status
	}
	return status + " with task " + task
}
