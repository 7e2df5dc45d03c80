// Package admin is the admin socket. Through it, the operator of a machine lists and changes
// what its server stores: instances, keys and the state file. It has both ends: the handler
// of the server and the client of the commands.
//
// # What it promises
//
// Both ends use the same constants: a [Route] is a method, a path and the type of the
// answer. So the client cannot ask for a path that the handler does not serve, and
// cannot read another type than the handler writes.
//
// Every POST writes one line to the audit log before its answer: the action, which is the
// first and the last word of the path ("keys rotate"), the ID of the client's user, what
// changed, and whether that succeeded. The handler writes the line in one place for all
// routes, so none can forget it.
//
// The client gets an error in full, without secrets, because it is the operator.
//
// # What it does not promise
//
// It does not authenticate clients. Each user who can connect to the socket can do
// everything, so [listen.Socket] makes it with mode 0600.
//
// It does not wait until the audit line is written. A lost line is an error in the process
// log.
package admin
