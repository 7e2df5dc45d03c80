package attest

import "time"

// Phase is what an instance does at the moment. The zero value denies.
type Phase string

// The phases.
const (
	// PhaseInactive is an instance that does not run, and that no task of the cloud is
	// about to start.
	PhaseInactive Phase = ""
	PhaseRunning  Phase = "running"
	// PhaseChanging is an instance that runs, or runs again, when the task of the cloud
	// ends.
	PhaseChanging Phase = "changing"
	// PhaseBuilding is an instance that is being built. The cloud may not know its
	// addresses yet.
	PhaseBuilding Phase = "building"
	// PhaseSpawning is the last part of PhaseBuilding: the guest may run already.
	PhaseSpawning Phase = "spawning"
)

// changingFor is the wait that a caller is told while a task of the cloud runs. Nova's
// tasks take seconds.
const changingFor = 5 * time.Second

// checkPhase returns nil for an instance that runs, a [*NotYet] for one that changes,
// and a [*Denied] for all others.
func checkPhase(in Instance) error {
	switch in.Phase {
	case PhaseRunning:
		return nil
	case PhaseChanging, PhaseBuilding, PhaseSpawning:
		return &NotYet{Reason: InstanceChanging, Detail: "the instance is " + in.State, After: changingFor}
	}
	return denied(StatusDenied, "the instance is %s", in.State)
}

// building reports whether the cloud may not know the addresses of the instance yet.
func building(in Instance) bool {
	return len(in.Addresses) == 0 && (in.Phase == PhaseBuilding || in.Phase == PhaseSpawning)
}
