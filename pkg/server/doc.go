// Package server has the HTTP endpoints: the doors, the key set, and the pages for
// monitoring. It is the only package that imports echo and Prometheus.
//
// A door is a way to a token: the address (POST /auth), Neutron's metadata service
// ([Agents]), and Nova's vendordata. A door parses a request, has package attest
// judge it, and answers. Server.serve has the steps that all doors share.
//
// The package promises that
//   - it never takes a client's address from a header that the client can write,
//   - an instance does not learn the reason of a denial: all denials have the same bytes,
//   - each decision has one audit line and one count,
//   - a guest of the metadata service gets an answer within 1.5 s, in a form that all
//     releases of Neutron's agent pass on.
//
// Requests that are malformed or throttled are counted and logged at debug level, but
// have no audit line: nothing was decided, and a flood of them must not fill the disk.
//
// It does not decide what an instance may have, and keeps no state but the rate
// limits, which end with the process.
package server
