// Package openstack asks one cloud: Nova about instances, Keystone about projects and tokens.
//
// It promises that every call has a deadline, that every answer and every cache has a bound, that concurrent questions
// about one instance make one call, that passwords and tokens are sent only to hosts that the configuration or the
// catalog names, and that no error has a secret in its text. It does not promise that the account has the rights it
// needs. The client works without a right that the cloud refuses: the right is in [Info] and [Client.Refused], the calls
// that need it fail, and the client asks for it again.
//
// # Caches
//
//	what              key          lifetime                     bound   purpose
//	found records     instance ID  2 s from the call's start     8,192  retries, several roles of one instance
//	late records      instance ID  3 s from the answer           8,192  retries of callers with a deadline, such as guests
//	unknown IDs       instance ID  1 s from the call's start     8,192  floods of one unknown ID
//	seen instances    instance ID  1 h, list lookup only       131,072  missing now: deleted, or its cell is down
//	project names     project ID   10 min                        8,192  claims
//	Keystone token    -            until Nova answers 401             1  one login for any number of calls
//	callers' tokens   SHA-256      60 s, never past their end    8,192  one check for many instances
//	other tokens      SHA-256      10 s                          8,192  invalid ones, and those of other users
//	callers' hosts    address      1 h from a valid token        8,192  the limit of a known host
//	failed checks     address      10 s                          8,192  see below
//
// Failures are not cached.
//
// # Tokens of callers
//
// A client that asks for a document sends a Keystone token ([Client.Caller]). Checks of tokens that turn out invalid, or
// of another user than expected, are limited: within ten seconds five of an address (more of a wider IPv6 network, see
// [ratelimit.Levels]), and 20 of an address that sent a valid token within the hour. Checks that succeed are not
// counted, because each host of Nova has a token of its own, and a token that was valid before is always checked again.
// So invalid tokens, and those of tenants, can neither overload Keystone nor evict a valid one from the cache. Checks
// have their own connections, so that a Keystone that does not answer takes none of Nova's.
//
// # Rights
//
// Only an admin can show the servers of other projects (nova/policies/servers.py; the database layer adds the caller's
// project to the query unless the context is an admin's). A list with `all_tenants=1&uuid=ID` finds the same record with
// two policies, for a role that has no other right; see example/openstack.
//
// After a login the cloud is asked for each right that the configuration needs, because role names prove nothing:
// policies differ between clouds. Each request has a random ID:
//
//	right                  request                                      refused    granted
//	list all projects      GET servers/detail?all_tenants=1&uuid=ID     403        200, no server
//	use the filter uuid    the same                                     -          200, no server
//	be an admin for Nova   GET servers/detail?status=deleted&uuid=ID    403        200
//	show a server          GET servers/ID                               403        404 itemNotFound
//	read a project's name  GET projects/ID                              403        404
//	validate a token       GET auth/tokens without X-Subject-Token      403        404
//
// Nova looks for a server before it checks the policy for showing one, so its 404 proves the endpoint and not the right.
// An account that may not list its own project, or whose token has no project, is therefore taken to lack the right to
// show. Keystone, too, looks for a token before it checks its policy, but without a token it checks the policy first.
package openstack
