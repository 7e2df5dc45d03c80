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
//	what             key          lifetime                 bound   purpose
//	found records    instance ID  2 s from the call's start  8,192  retries, several roles of one instance
//	unknown IDs      instance ID  1 s from the call's start  8,192  floods of one unknown ID
//	seen instances   instance ID  1 h, list lookup only    131,072  a cell that is down is no deletion
//	Keystone token   -            until Nova answers 401         1  one login for any number of calls
//
// A failure is never kept.
//
// # Rights
//
// Only an admin can show the servers of other projects
// (nova/policies/servers.py, and the database layer adds the caller's project
// unless the context is an admin's). A list with `all_tenants=1&uuid=ID` finds
// the same record with two policies for a role that has no other right; see
// example/openstack.
package openstack
