// Package openstack asks a cloud's Keystone and Nova what it knows of an
// instance.
//
// It stands on gophercloud and adds what a server that anyone may call needs:
// every call has a deadline, every body and every cache a bound, concurrent
// questions about one instance are one call, and a cloud that refuses our token
// over and over is not answered with a login each time.
//
// # Caches
//
//	what              key          lifetime                     bound   purpose
//	found records     instance ID  2 s from the call's start     8,192  retries, several roles of one instance
//	unknown IDs       instance ID  1 s from the call's start     8,192  floods of one unknown ID
//	seen instances    instance ID  1 h, list lookup only       131,072  a cell that is down is no deletion
//	project names     project ID   10 min                        8,192  claims
//	Keystone token    -            until Nova answers 401             1  one login for any number of calls
//	Nova's tokens     SHA-256      60 s, never past their end    8,192  one check for many instances
//	others' tokens    SHA-256      10 s                          8,192  a definite no, or who is not Nova
//	Nova's hosts      address      1 h from a good token         8,192  strangers do not use up their checks
//	failed checks     address      10 s                          8,192  see below
//
// A failure is never kept.
//
// # Tokens of Nova's
//
// Whoever asks for a document shows a Keystone token ([Client.Caller]). Keystone
// is asked about few that turn out not to be of the users that are expected: 5 of
// one address and 20 of all within ten seconds, and 20 of an address that has shown
// a good one within the hour. Good ones count for nothing, as each host of Nova has
// its own, and one that was good before is always asked about again. So made up
// tokens, and those of tenants, keep Keystone no busier than that, push no good one
// out, and keep Nova's hosts out only before their first token and with four
// addresses. Checks have connections of their own, so that a Keystone that hangs
// takes none of Nova's.
//
// # Rights
//
// Only an admin can show the servers of other projects
// (nova/policies/servers.py, and the database layer adds the caller's project
// unless the context is an admin's). A list with `all_tenants=1&uuid=ID` finds
// the same record with two policies for a role that has no other right; see
// example/openstack.
//
// After a login the cloud is asked for each right that the configuration needs. The names
// of roles decide nothing: policies are the cloud's own. The requests, each about a random
// ID:
//
//	right                  request                                      refused    granted
//	list all projects      GET servers/detail?all_tenants=1&uuid=ID     403        200, no server
//	use the filter uuid    the same                                     -          200, no server
//	be an admin for Nova   GET servers/detail?status=deleted&uuid=ID    403        200
//	show a server          GET servers/ID                               403        404 itemNotFound
//	read a project's name  GET projects/ID                              403        404
//	validate a token       GET auth/tokens without X-Subject-Token      403        404
//
// Nova looks for a server before it asks its policy of showing, so that the 404 proves the
// endpoint and not the right: an account to which Nova refuses lists of its own project, or
// whose token is of no project, is taken to lack it. Keystone looks for a token before it
// asks its policy, too, and asks that first if there is no token to look for.
//
// A right that the cloud refuses ends nothing. It is in [Info] and [Client.Rights], what
// needs it fails, and it is asked for again.
package openstack
