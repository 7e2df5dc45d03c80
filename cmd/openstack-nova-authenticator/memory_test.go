package main

import (
	"testing"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/audit"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/config"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/openstack"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/server"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state"
)

// held is memory that clients can make the process hold.
type held struct {
	what   string
	most   int64
	each   int64 // bytes of Go
	kernel int64 // bytes of the kernel
}

// memory returns all memory that clients can make the process hold at one time.
func memory() []held {
	return []held{
		{"connections of instances and verifiers", server.Connections, listen.ConnectionMemory, listen.KernelMemory},
		{"connections of Nova", server.VendordataConnections, listen.ConnectionMemory, listen.KernelMemory},
		{"connections of metadata agents", server.AgentConnections, listen.ConnectionMemory, listen.KernelMemory},
		{"requests to Nova's metadata API", server.AgentConnections, server.NovaMemory, server.NovaKernelMemory},
		{"connections of monitoring", server.OperatorConnections, listen.ConnectionMemory, listen.KernelMemory},
		{"connections of the admin socket", listen.SocketConnections, listen.ConnectionMemory, listen.KernelMemory},
		{"bodies", 1, server.BodyBudget, 0},
		{"limiters", 1, server.ThrottleMemory, 0},
		{"lookups in flight, and the caches of the cloud", 1, openstack.Memory(config.Default().OpenStack.MaxConcurrent), 0},
		{"attempts, with state.type memory", 1, state.MemoryBytes, 0},
		{"queued lines of stdout, stderr and the audit log", 3, audit.Memory, 0},
		{"the idle process", 1, 24 << 20, 8 << 20},
	}
}

// The sum fits into the limits of the unit, with a tenth for the losses of Go's allocator.
func TestMemoryFitsTheUnit(t *testing.T) {
	var ours, kernel int64
	for _, h := range memory() {
		t.Logf("%8.1f MiB, and %6.1f of the kernel: %s", float64(h.most*h.each)/(1<<20), float64(h.most*h.kernel)/(1<<20), h.what)
		ours, kernel = ours+h.most*h.each, kernel+h.most*h.kernel
	}
	goLimit, all := unitBytes(t, "GOMEMLIMIT"), unitBytes(t, "MemoryMax")
	t.Logf("%d MiB, and %d of the kernel, of %d and %d", ours>>20, kernel>>20, goLimit>>20, all>>20)
	if need := ours + ours/10; need > goLimit {
		t.Errorf("GOMEMLIMIT is %d MiB, and %d are needed", goLimit>>20, need>>20)
	}
	if need := goLimit + kernel; need > all {
		t.Errorf("MemoryMax is %d MiB, and %d are needed", all>>20, need>>20)
	}
}
