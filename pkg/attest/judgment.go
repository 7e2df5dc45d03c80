package attest

// Judgment is what became of a request.
type Judgment struct {
	// Instance is the cloud's record of the instance that was asked for, for the
	// operator's log; it proves nothing. It is the zero value if no check came so far.
	Instance Instance
	// Identity is the zero value unless the request was granted.
	Identity Identity
	// Checks are the checks in the order in which they were made. Of several proofs one
	// is enough, so a failed check does not mean that the request was denied.
	Checks []Check
}

// Check is one step of a judgment.
type Check struct {
	Name          string // such as window or metadata.role
	Wanted, Found any    // for the operator, by their String methods
	Err           error  // nil if the check passed
}

// failed reports whether a check failed, and adds it unless j is nil.
func (j *Judgment) failed(name string, wanted, found any, err error) bool {
	if j != nil {
		j.Checks = append(j.Checks, Check{name, wanted, found, err})
	}
	return err != nil
}
