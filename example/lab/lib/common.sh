# shellcheck shell=bash disable=SC2034
# Shared by up, down and every lib/*.sh. Source it; it runs nothing by itself.

export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8
unset PYTHONPATH PYTHONHOME "${!OS_@}"

say() { printf '%5ss  %s\n' "$SECONDS" "$*"; }
die() { echo "openstack-lab: $*" >&2; exit 1; }

GUEST_PATH=$PATH

# The cloud: the first argument of up, down and instance, or $OPENSTACK_LAB. Its folder in lib/ has what is not the same in
# all clouds.
case ${1:-} in zed | 2026.1) OPENSTACK_LAB=$1; shift ;; esac
export OPENSTACK_LAB=${OPENSTACK_LAB:-zed}
case $OPENSTACK_LAB in
  zed) STATE=/tmp/openstack-lab ;;
  2026.1) STATE=/tmp/openstack-lab-2026.1 ;;
  *) die "OPENSTACK_LAB is $OPENSTACK_LAB; the clouds are zed and 2026.1" ;;
esac
STATE=${OPENSTACK_STATE:-$STATE}
[ "$(cat "$STATE/cloud" 2>/dev/null || echo "$OPENSTACK_LAB")" = "$OPENSTACK_LAB" ] ||
  die "$STATE is the state folder of cloud $(cat "$STATE/cloud"), not of $OPENSTACK_LAB"

ETC=$STATE/etc LOG=$STATE/log RUN=$STATE/run DATA=$STATE/data
SECRET=lab-secret            # one password for every account: nothing here is reachable from outside
METADATA_SECRET=lab-metadata-secret
REGION=RegionOne

# A pid file holds "pid start-time"; the start time tells our process from a later one with the same pid.
start_time() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }
alive() { # NAME
  local pid since
  { read -r pid since <"$RUN/$1.pid"; } 2>/dev/null || return 1
  [ -n "$since" ] && [ "$(start_time "$pid")" = "$since" ]
}

# start NAME COMMAND...: run COMMAND in the background as a process group of its own, unless it runs already.
start() {
  local name=$1 pid; shift
  alive "$name" && return
  setsid "$@" >>"$LOG/$name.log" 2>&1 </dev/null 9>&- &
  pid=$!
  sleep 0.1
  echo "$pid $(start_time "$pid")" >"$RUN/$name.pid"
}

# stop NAME [SECONDS]: end the process group that start made.
stop() {
  local pid since
  if alive "$1"; then
    read -r pid since <"$RUN/$1.pid"
    kill -TERM -- "-$pid" 2>/dev/null
    for _ in $(seq $((${2:-10} * 10))); do alive "$1" || break; sleep 0.1; done
    kill -KILL -- "-$pid" 2>/dev/null
  fi
  rm -f "$RUN/$1.pid"
}

# wait_for SECONDS WHAT COMMAND...: until COMMAND succeeds.
wait_for() {
  local end=$((SECONDS + $1)) what=$2; shift 2
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$end" ] || die "no $what in time; see $LOG"
    sleep 0.3
  done
}
soon() { # SECONDS COMMAND...: the same, but fails instead of ending the script
  local end=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$end" ] || return 1
    sleep 0.2
  done
}
# Unlike "ip netns exec" this stays in the machine's mount namespace.
in_namespace() { local ns=$1; shift; nsenter --net="/run/netns/$ns" "$@"; }
new_namespace() { # NAME
  mountpoint -q /run/netns || touch "$RUN/netns-mount" # for network_clean: ip is about to mount it
  ip netns add "$1" && ip -n "$1" link set lo up
}
port_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
http_ok() { curl -s -o /dev/null --noproxy '*' -m 5 -w '%{http_code}' "$1" | grep -qE '^(2|3|401)'; }

# start_py NAME MODULE FUNCTION ARGS...: a console script of a Python package, whether or not its package has installed one.
start_py() {
  local name=$1 code="import sys; sys.argv[0] = '$1'
from $2 import $3 as main
sys.exit(main())"
  shift 3
  start "$name" "$PYTHON" -c "$code" "$@"
}

# start_wsgi NAME PORT PROCESSES LINES VARIABLE=VALUE...: an API in uWSGI, with more lines for its file. wsgi_app of the cloud
# says which module or file the API is.
start_wsgi() {
  local name=$1 port=$2 processes=$3 lines=$4; shift 4
  mkdir -p "$ETC/uwsgi"
  {
    cat <<END
[uwsgi]
plugin = python3
http-socket = 127.0.0.1:$port
master = true
processes = $processes
need-app = true
die-on-term = true
lazy-apps = true
buffer-size = 65535
add-header = Connection: close
$lines
END
    wsgi_app "$name"
  } >"$ETC/uwsgi/$name.ini"
  start "$name" env "$@" uwsgi --ini "$ETC/uwsgi/$name.ini"
}

# once NAME COMMAND...: run COMMAND unless it has succeeded in this state folder before.
once() {
  local mark=$DATA/.done-$1; shift
  [ -e "$mark" ] && return
  "$@" && touch "$mark"
}

db_url() { echo "mysql+pymysql://lab:$SECRET@127.0.0.1:3306/$1"; }

# The [keystone_authtoken]-like lines of a service user.
service_login() { # USER
  cat <<END
auth_type = password
auth_url = http://127.0.0.1:5000
username = $1
password = $SECRET
project_name = service
user_domain_name = Default
project_domain_name = Default
region_name = $REGION
END
}

# Sections that every service's configuration ends with.
common_conf() { # SERVICE [TYPE]: without the type, credentials with access rules are refused
  cat <<END
[keystone_authtoken]
www_authenticate_uri = http://127.0.0.1:5000
$(service_login "$1")
service_type = ${2:-$1}

[oslo_concurrency]
lock_path = $DATA/$1/lock

[oslo_policy]
policy_file = policy.yaml
policy_dirs = $ETC/$1/policy.d
END
}

service_dirs() { mkdir -p "$ETC/$1/policy.d" "$DATA/$1/lock"; }

# shellcheck source=/dev/null
. "$HERE/lib/$OPENSTACK_LAB/cloud.sh"
# shellcheck source=SCRIPTDIR/outside.sh
. "$HERE/lib/outside.sh"
# shellcheck source=/dev/null
. "$HERE/lib/$OPENSTACK_LAB/network.sh"

# in_cloud COMMAND...: where the services listen.
in_cloud() {
  if [ -z "$SERVICES_NETNS" ] || [ /proc/self/ns/net -ef "/run/netns/$SERVICES_NETNS" ]; then
    "$@"
  else
    in_namespace "$SERVICES_NETNS" "$@"
  fi
}
