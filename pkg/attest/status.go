package attest

import (
	"fmt"
	"strings"
	"time"
)

// changingFor is what a caller is told to wait while a task runs. Nova's tasks
// take seconds.
const changingFor = 5 * time.Second

// checkStatus is nil for an instance that runs. Status and task are Nova's
// (nova/api/openstack/common.py, nova/compute/task_states.py); what is not
// listed denies.
func checkStatus(in Instance) error {
	if running[in.Status] && harmless(in.TaskState) {
		return nil
	}
	if in.Status == "BUILD" || (!final[in.Status] && passing(in.TaskState)) {
		return &NotYet{
			Reason: InstanceChanging,
			Detail: describeStatus(in),
			After:  changingFor,
		}
	}
	return denied(StatusDenied, "%s", describeStatus(in))
}

var (
	running = map[string]bool{"ACTIVE": true, "PASSWORD": true, "VERIFY_RESIZE": true, "MIGRATING": true}
	// final statuses hold what never speaks again, whatever task is left in the record.
	final = map[string]bool{"ERROR": true, "DELETED": true, "SOFT_DELETED": true}
)

// harmless tasks leave the instance running as it was.
func harmless(task string) bool {
	return task == "" || strings.HasPrefix(task, "image_") || task == "updating_password" || task == "migrating"
}

// passing tasks end by themselves in a running instance.
func passing(task string) bool {
	switch task {
	case "scheduling", "networking", "block_device_mapping", "spawning",
		"powering-on", "unpausing", "resuming", "unrescuing", "unshelving":
		return true
	}
	for _, prefix := range []string{"reboot", "rebuild", "resize_"} {
		if strings.HasPrefix(task, prefix) {
			return true
		}
	}
	return false
}

// launching tasks begin when nothing of the instance runs any more, and end with
// another launched_at (nova/compute/manager.py). The one before rebuild_spawning,
// rebuilding, begins while the old system runs.
func launching(task string) bool {
	return task == "spawning" || task == "rebuild_spawning" || task == "resize_finish"
}

func describeStatus(in Instance) string {
	if in.TaskState == "" {
		return fmt.Sprintf("the instance is %s", in.Status)
	}
	return fmt.Sprintf("the instance is %s with task %s", in.Status, in.TaskState)
}
