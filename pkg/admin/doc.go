// Package admin is the admin socket, through which the operator of a machine sees and
// changes what its server keeps: instances, keys and the state file. It has both ends:
// the handler of the server and the client of the commands.
//
// # What it promises
//
// Both ends use the same constants: a [Route] is a method, a path and the type of the
// answer. So the client cannot ask for a path that the handler does not serve, and
// cannot read another type than the handler writes.
//
// Every POST writes one line to the audit log, before it is answered: the action, which
// is the first and the last word of the path ("keys rotate"), the ID of the user at the
// other end of the socket, what was changed, and whether that succeeded. No route can
// leave the line out, since the handler writes it for all of them in one place.
//
// An error is given to the client in full, without secrets: the operator may know it.
//
// # What it does not promise
//
// It does not check who calls. All who can connect to the socket can do everything, so
// [listen.Socket] makes it with mode 0600.
//
// It does not wait until the audit line is written. A line that is lost is an error in
// the process log.
package admin
