package instance_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const driveDocument = `{"static": {"document": "x"}, "instance_identity": {"document": "d.o.c"}, "other": {"document": "y"}}`

// newDrive makes what a config drive holds.
func newDrive(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	latest := filepath.Join(dir, "openstack", "latest")
	if err := os.MkdirAll(latest, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"vendor_data2.json": driveDocument, "meta_data.json": `{"uuid": "` + instance + `"}`} {
		if err := os.WriteFile(filepath.Join(latest, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// A config drive has what a metadata service does not tell.
func TestConfigDrive(t *testing.T) {
	const (
		put    = "PUT /identity/token?format=token&role=web"
		vendor = "GET /openstack/latest/vendor_data2.json"
		meta   = "GET /openstack/latest/meta_data.json"
		auth   = "POST /auth  role=web&format=token&"
	)
	gone := httptest.NewServer(nil)
	gone.Close()
	tests := []struct {
		name   string
		nova   string // "" for the world's own
		args   []string
		answer map[string]int
		status int
		asked  string
	}{
		{"no metadata service, a document", gone.URL, nil, nil, 0, auth + "document=d.o.c"},
		{"no metadata service, the address", gone.URL, []string{"-w", "address"}, nil, 0, auth + "instance_id=" + instance},
		{"the metadata service has no document", "", nil, map[string]int{"/identity/token": 404, "/openstack/latest/vendor_data2.json": 404}, 0,
			put + "\n" + vendor + "\n" + auth + "document=d.o.c"},
		{"the metadata service has one", "", []string{"-w", "document"}, nil, 0, vendor + "\n" + auth + "document=d.o.c"},
		{"the metadata service has the ID", "", []string{"-w", "address"}, nil, 0, meta + "\n" + auth + "instance_id=" + instance},
		{"an old document", gone.URL, []string{"-w", "document"}, map[string]int{"/auth": 403}, 1, auth + "document=d.o.c"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.answer(tt.answer)
			nova := tt.nova
			if nova == "" {
				nova = w.URL
			}
			status, out, said := run(t, []string{"METADATA_URL=" + nova, "CONFIG_DRIVE=" + newDrive(t)}, "token.sh", append([]string{"-r", "web", "-u", w.URL}, tt.args...)...)
			if status != tt.status || (status == 0) != (out == jwt+"\n") {
				t.Errorf("status %d, %q, %q, want %d", status, out, said, tt.status)
			}
			if got := strings.Join(w.requests(), "\n"); got != tt.asked {
				t.Errorf("it asked\n%s\nwant\n%s", got, tt.asked)
			}
		})
	}
	for name, drive := range map[string]string{"an empty directory": t.TempDir(), "nothing": "/none"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if status, out, said := run(t, []string{"METADATA_URL=" + gone.URL}, "token.sh", "-r", "web", "-u", w.URL, "-d", drive); status != 75 || out != "" || len(w.requests()) > 0 {
				t.Errorf("status %d, %q, %q, %q", status, out, said, w.requests())
			}
		})
	}
	for _, args := range [][]string{{"-d", "config-2"}, {"-d", "-o"}, {"-i", "eth0]/"}, {"-i", "a b"}} {
		if status, out, said := run(t, nil, "token.sh", append([]string{"-r", "web"}, args...)...); status != 2 || out != "" || said == "" {
			t.Errorf("%q: status %d, %q, %q", args, status, out, said)
		}
	}
}

// inNamespaces runs a script with a network and mounts of its own.
func inNamespaces(t *testing.T, script string, env ...string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	t.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
	for _, tool := range []string{"unshare", "nsenter", "ip", "losetup"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	if out, err := exec.CommandContext(t.Context(), "unshare", "--net", "--mount", "true").CombinedOutput(); err != nil {
		t.Skipf("no namespaces: %v: %s", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "unshare", "--net", "--mount", "sh", "-euc", script)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + t.TempDir()}, env...)
	cmd.WaitDelay = 5 * time.Second // for what it may have left behind
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	return string(out)
}

// A config drive is found by its label, mounted or not. What a user mounted with
// FUSE is not used.
func TestConfigDriveByLabel(t *testing.T) {
	for _, kind := range []string{"ext4 that is mounted", "iso9660", "vfat"} {
		t.Run(kind, func(t *testing.T) {
			image := filepath.Join(t.TempDir(), "drive.img")
			dir := newDrive(t)
			t.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
			commands := map[string][][]string{
				"ext4 that is mounted": {{"truncate", "-s", "4M", image}, {"mkfs.ext4", "-q", "-d", dir, image}},
				"iso9660":              {{"xorrisofs", "-quiet", "-J", "-r", "-V", "config-2", "-o", image, dir}},
				"vfat":                 {{"truncate", "-s", "4M", image}, {"mkfs.vfat", "-n", "config-2", image}, {"mcopy", "-i", image, "-s", filepath.Join(dir, "openstack"), "::"}},
			}[kind]
			for _, c := range commands {
				if _, err := exec.LookPath(c[0]); err != nil {
					t.Skipf("%s is not installed", c[0])
				}
				if out, err := exec.CommandContext(t.Context(), c[0], c[1:]...).CombinedOutput(); err != nil {
					t.Fatalf("%v: %v\n%s", c, err, out)
				}
			}
			// A /dev of its own, where the label leads to the image's loop device.
			const script = `
old=$(mktemp -d); mount --rbind /dev "$old"; mount -t tmpfs dev /dev
for n in null zero random urandom; do : >/dev/$n; mount --bind "$old/$n" /dev/$n; done
loop=$(losetup --find --show "$IMAGE" 2>/dev/null) || loop=
if [ -z "$loop" ]; then
    for n in 0 1 2 3 4 5 6 7; do mknod "/dev/loop$n" b 7 "$n" 2>/dev/null || :; done
    mknod /dev/loop-control c 10 237
    loop=$(losetup --find --show "$IMAGE") || { echo SKIP no loop device; exit 0; }
fi
trap 'losetup -d "$loop"' EXIT
mkdir -p /dev/disk/by-label "$TMPDIR/a b"; ln -s "../../${loop##*/}" /dev/disk/by-label/config-2
case $KIND in
ext4*) mount -t ext4 -o ro "$loop" "$TMPDIR/a b" ;;
*) mount -t "$KIND" -o ro "$loop" "$TMPDIR/a b" 2>/dev/null || { echo SKIP the kernel has no "$KIND"; exit 0; }; umount "$TMPDIR/a b" ;;
esac
ip link set lo up
export METADATA_URL=http://127.0.0.1:1
said=$(sh token.sh -r web -u http://127.0.0.1:1 -w address 2>&1) && exit 3
[ "$said" = 'token.sh: address: no token (status 000)' ] || { echo "$said"; exit 4; }
grep -c "$loop" /proc/mounts || :
sh -x token.sh -r web -u http://127.0.0.1:1 -w document 2>&1 | grep -c "^+ by_auth document d.o.c$"
`
			got := inNamespaces(t, script, "IMAGE="+image, "KIND="+strings.Fields(kind)[0])
			if strings.HasPrefix(got, "SKIP") {
				t.Skip(got)
			}
			want := "0\n1\n" // nothing stays mounted
			if strings.HasPrefix(kind, "ext4") {
				want = "1\n1\n"
			}
			if got != want {
				t.Errorf("%q, want %q", got, want)
			}
		})
	}
}

// A device that is not mounted is mounted read-only, and unmounted again.
func TestConfigDriveIsMounted(t *testing.T) {
	bin, dir := t.TempDir(), newDrive(t)
	device, log := filepath.Join(bin, "sr0"), filepath.Join(bin, "log")
	for name, text := range map[string]string{
		"sr0": "", "findfs": "exit 1\n",
		"mount": fmt.Sprintf("[ \"$2\" = vfat ] || { echo wrong fs type >&2; exit 32; }\necho mount $1 $2 $3 $4 $5 >>%s\nfor at; do :; done\ncp -R %s/openstack \"$at\"\n", log, dir),
		// It has to be there until it is unmounted.
		"umount": fmt.Sprintf("ls \"$1/openstack/latest\" >>%s\necho umount >>%[1]s\nrm -r \"$1/openstack\"\n", log),
	} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	w := newWorld(t)
	status, out, said := run(t, []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "METADATA_URL=http://127.0.0.1:1"}, "token.sh", "-r", "web", "-u", w.URL, "-d", device)
	got, err := os.ReadFile(log)
	want := "mount -t vfat -o ro,nosuid,nodev,noexec " + device + "\nmeta_data.json\nvendor_data2.json\numount\n"
	if err != nil || status != 0 || out != jwt+"\n" || string(got) != want {
		t.Errorf("status %d, %q, %s: %s, %v, want %s", status, out, said, got, err, want)
	}
}

// On a network without IPv4 the metadata service is fe80::a9fe:a9fe, which has to be
// asked on an interface that leads to it: a real one, in a namespace of its own.
func TestMetadataServiceOfIPv6(t *testing.T) {
	server := filepath.Join(t.TempDir(), "server")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", server, "./testdata/metadata").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	const script = `
pids= ; trap 'kill $pids 2>/dev/null || :' EXIT
own() { # a namespace of its own, for a minute
    unshare --net sleep 60 & pid=$!; pids="$pids $pid"
    until [ "$(readlink "/proc/$pid/ns/net")" != "$(readlink /proc/self/ns/net)" ]; do :; done
}
in_ns() { target=$1; shift; nsenter --net --target "$target" "$@"; }
own; metadata=$pid; own; container=$pid
ip link set lo up
# br-a comes first by name and number, and a container that answers is behind it.
ip link add br-a type veth peer name eth0 netns "$container"
ip link add net.0 type veth peer name eth0 netns "$metadata"
ip link set br-a up; ip link set net.0 up
for ns in $metadata $container; do
    in_ns "$ns" ip addr add fe80::a9fe:a9fe/64 dev eth0 nodad; in_ns "$ns" ip link set eth0 up
    nsenter --net --target "$ns" "$SERVER" "[fe80::a9fe:a9fe%eth0]:80" "$([ "$ns" = "$metadata" ] && echo of.the.service || echo of.a.container)" & pids="$pids $!"
done
for one in net.0 br-a; do
    end=$(($(date +%s) + 20))
    until curl -gsfo /dev/null -m 2 "http://[fe80::a9fe:a9fe%25$one]/up"; do [ "$(date +%s)" -lt $end ] || exit 3; done
done
ask() { sh token.sh -r web "$@" 2>&1 || echo "status $?"; }
echo "no route: $(ask -w metadata)"
echo "named: $(ask -w metadata -i net.0)"
echo "named by the environment: $(INTERFACE=br-a ask -w metadata)"
ip -6 route add default via fe80::a9fe:a9fe dev net.0
echo "default route: $(ask -w metadata)"
echo "check: $(sh token.sh --check 2>&1 || echo "status $?")"
echo "check, named: $(sh token.sh --check -i br-a 2>&1 | head -n 1)"
echo "all ways: $(ask)"
folder=$(mktemp -d)
echo "to a file: $(ask -o "$folder/token")$(ls "$folder") $(cat "$folder/token")"
rm -r "$folder"
ip -6 route del default; ip addr add 10.20.0.11/24 dev net.0; ip route add default via 10.20.0.1
echo "default route of IPv4: $(ask -w metadata)"
`
	want := `no route: token.sh: metadata: no token (status 000)
status 75
named: of.the.service
named by the environment: of.a.container
default route: of.the.service
check: metadata service: answers (status 200) at http://[fe80::a9fe:a9fe%25net.0]
limit: missing (5 KB of headers get status 200); Neutron 2025.1 and later need it
identity: answers (status 200)
status 1
check, named: metadata service: answers (status 200) at http://[fe80::a9fe:a9fe%25br-a]
all ways: of.the.service
to a file: token of.the.service
default route of IPv4: of.the.service
`
	if got := inNamespaces(t, script, "SERVER="+server); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}
