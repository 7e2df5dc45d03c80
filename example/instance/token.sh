#!/bin/sh
# Gets a token for this instance and prints it: from the metadata service, else with the document that Nova hands out,
# else by the instance's address. It needs only sh, curl and grep.
#
#   token.sh [-r ROLE] [-a AUDIENCE] [-u URL] [-c CAFILE] [-w WAY]... [-i INTERFACE] [-d DRIVE] [-o FILE]
#   token.sh --check [-i INTERFACE]
#
#   -r ROLE      the role; default: $ROLE
#   -a AUDIENCE  the service that the token is for; default: $AUDIENCE, else the role's first
#   -u URL       the authenticator, such as https://id.example.com; default: $URL; not needed for the metadata service
#   -c CAFILE    the CA of its certificate; default: $CAFILE, else the system's
#   -w WAY       metadata, document or address; may be there several times; default: $WAYS, else all three in this order
#   -i INTERFACE ask the metadata service at fe80::a9fe:a9fe on this interface; default: $INTERFACE, else 169.254.169.254,
#                and where that does not answer fe80::a9fe:a9fe on the interfaces of default routes, then on the others
#                that are hardware
#   -d DRIVE     the config drive: its device, or the directory where it is mounted; it is read where the metadata service
#                has no document or does not answer; default: $CONFIG_DRIVE, else the disk with the label config-2. To
#                mount it takes root; it is unmounted again
#   -o FILE      write the token to FILE, at once and readable for its owner alone, instead of printing it; other users
#                must not be able to write to its directory
#
# --check gets no token. It tells whether the metadata service answers, whether the agent of this hypervisor has the limit that
# Neutron 2025.1 and later need (example/metadata-service/agent-limits), and whether the authenticator is behind it. It prints a
# line for each. The exit status is 0 if all are as they should be, 1 if one is not, 75 if one did not answer.
#
# Proxies (http_proxy and the like), .curlrc and redirects are ignored: a proxy would use its own machine's metadata
# service and address.
#
# $TARGET is the name of our vendordata in nova.conf, by default instance_identity. $METADATA_URL is for trials: the only
# metadata service that is asked.
# The exit status is 0 with a token, 1 when every way was refused, 2 for a mistake in the call, 75 when you should try
# again (no answer, or "not yet").
set -uf # -f: an IPv6 address has brackets
umask 077
export LC_ALL=C
unset SSLKEYLOGFILE # curl would write the keys of its connections there

target=${TARGET:-instance_identity}
role=${ROLE:-} audience=${AUDIENCE:-} url=${URL:-} cafile=${CAFILE:-} ways=${WAYS:-} output=
interface=${INTERFACE:-} drive=${CONFIG_DRIVE:-}

usage() {
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
    exit "$1"
}
say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

[ "${1:-}" != --help ] || usage 0
check=
if [ "${1:-}" = --check ]; then
    check=1
    shift
fi
own=
while getopts r:a:u:c:w:i:d:o:h option; do
    case $option in
    r) role=$OPTARG ;;
    a) audience=$OPTARG ;;
    u) url=$OPTARG ;;
    c) cafile=$OPTARG ;;
    w) own="$own $OPTARG" ;;
    i) interface=$OPTARG ;;
    d) drive=$OPTARG ;;
    o) output=$OPTARG ;;
    h) usage 0 ;;
    *) usage 2 >&2 ;;
    esac
done
shift $((OPTIND - 1))
ways=${own:-${ways:-metadata document address}}
[ $# = 0 ] || usage 2 >&2
if [ -z "$role$check" ]; then
    say "no role; name one with -r"
    exit 2
fi

# Refuse a value that would be an option of curl, a file of this machine, or several URLs.
for address in "${METADATA_URL:-}" "$url"; do
    case $address in
    '') ;;
    *[!!-~]* | *[\\{}]*)
        say "a URL has a character that none has"
        exit 2
        ;;
    http://?* | https://?*) ;;
    *)
        say "a URL begins with http:// or https://"
        exit 2
        ;;
    esac
done
url=${url%/}
case $role$audience in
*[!!-~]*)
    say "a role or an audience has a character that none has"
    exit 2
    ;;
esac
case $target in
'' | *[!A-Za-z0-9_-]*)
    say "TARGET is not a name"
    exit 2
    ;;
esac

case $interface in
*[!A-Za-z0-9._-]*)
    say "INTERFACE is not the name of a network interface"
    exit 2
    ;;
esac
case $drive in
'' | /*) ;;
*)
    say "the config drive is not an absolute path"
    exit 2
    ;;
esac

# In a directory that another user can write to, that user could replace the file by a link or another token. The
# directory is entered first, so that the folder that was checked is the folder that is written to.
enter() { # DIRECTORY
    cd -P "$1" || return 1
    seen=$(ls -ldn .) || return 1
    mode=${seen%% *}
    case $mode in
    d????w* | d???????w*)
        say "$1: other users can write to this directory"
        return 1
        ;;
    esac
    owner=$(printf '%s\n' "$seen" | tr -s ' ' | cut -d ' ' -f 3)
    if [ "$owner" != 0 ] && [ "$owner" != "$(id -u)" ]; then
        say "$1: the directory belongs to another user"
        return 1
    fi
    if [ -d "./$name" ]; then
        say "$output is a directory"
        return 1
    fi
}
unset CDPATH
directory=. name=$output
case $output in
*/*) directory=${output%/*}/ name=${output##*/} ;;
esac
case $directory in
-*) directory=./$directory ;;
esac
if [ -n "$output" ]; then
    if [ -z "$name" ]; then
        say "$output is a directory"
        exit 2
    fi
    (enter "$directory") || exit 2
fi

work=$(mktemp -d) || exit 2
case $work in
/*) ;;
*) work=$PWD/$work ;;
esac
body=$work/body value=$work/value new='' mounted=''
trap '[ -z "$mounted" ] || umount "$mounted"; rm -rf "$work" ${new:+"$new"}' EXIT
trap 'exit 129' HUP INT TERM

# fetch ARGS...: the status is what curl saw, 000 without an answer; reached is how long it took to connect, 0.000000 if it
# did not; the body is in the file. -q, which has to be the
# first: no .curlrc.
fetch() {
    : >"$body"
    status=$(curl -q --noproxy '*' --proto '=http,https' --max-redirs 0 --max-filesize 1048576 -g -s -m 20 \
        -o "$body" -w '%{http_code} %{time_connect}' "$@") || status="000 ${status#* }"
    reached=${status#* } status=${status%% *}
}

# A value as a query has it (RFC 3986, section 2.3).
escape() {
    rest=$1 escaped=
    while [ -n "$rest" ]; do
        tail=${rest#?}
        first=${rest%"$tail"}
        rest=$tail
        case $first in
        [A-Za-z0-9._~-]) escaped=$escaped$first ;;
        *) escaped=$escaped%$(printf %02X "'$first") ;;
        esac
    done
    printf %s "$escaped"
}

# The text of the first KEY in a flat JSON object or one within another: field KEY
field() {
    grep -o "\"$1\": *\"[^\"]*\"" "$body" | head -n 1 | cut -d '"' -f 4
}

# The interfaces on which the metadata service may be, as Linux lists them in /proc: first those of default routes, then
# hardware with a link-local address. Not on any other, as a bridge of containers: there a container could answer.
interfaces() {
    while read -r to bits _ _ _ _ _ _ _ link; do
        [ "$to$bits" != 0000000000000000000000000000000000 ] || printf '%s\n' "$link"
    done </proc/net/ipv6_route
    while read -r link to _; do
        [ "$to" != 00000000 ] || printf '%s\n' "$link"
    done </proc/net/route
    while read -r to _ _ scope _ link; do
        [ "$scope" != 20 ] || [ ! -e "/sys/class/net/$link/device" ] || printf '%s\n' "$link"
    done </proc/net/if_inet6
} 2>/dev/null

# The URLs at which the metadata service may be, until one connects.
if [ -n "${METADATA_URL:-}" ]; then
    metadata=$METADATA_URL
elif [ -n "$interface" ]; then
    metadata=http://[fe80::a9fe:a9fe%25$interface]
else
    metadata=http://169.254.169.254
    for link in $(interfaces); do
        case $link in
        lo | *[!A-Za-z0-9._-]*) continue ;;
        esac
        one=http://[fe80::a9fe:a9fe%25$link]
        case " $metadata " in
        *" $one "*) ;;
        *) metadata="$metadata $one" ;;
        esac
    done
fi

# ask PATH ARGS...: as fetch, of the metadata service. A URL that does not connect is not tried again.
ask() {
    at=$1
    shift
    : >"$body"
    status=000
    for one in $metadata; do
        fetch --connect-timeout 5 "$@" "$one$at"
        case $reached in
        *[1-9]*)
            metadata=$one
            return 0
            ;;
        esac
    done
    metadata=
}

# check: the lines of --check. The request that is too long has a header of 5 KB that means nothing.
check() {
    wrong='' again=''
    ask /
    case $status in
    000)
        echo "metadata service: no answer"
        again=1
        ;;
    400)
        echo "metadata service: refuses a plain request (status 400) at $metadata"
        wrong=1
        ;;
    *)
        echo "metadata service: answers (status $status) at $metadata"
        case $status in
        429 | 5??) again=1 ;;
        esac
        ;;
    esac
    ask / -H "X-Pad: $(printf '%5000s' '' | tr ' ' a)"
    case $wrong$status in
    400) echo "limit: in place (5 KB of headers get status 400)" ;;
    000 | 429 | 1*)
        echo "limit: unknown (5 KB of headers get status $status)"
        again=1
        ;;
    *)
        echo "limit: missing (5 KB of headers get status $status); Neutron 2025.1 and later need it"
        wrong=1
        ;;
    esac
    ask /identity/roles
    case $status in
    200) echo "identity: answers (status 200)" ;;
    403) echo "identity: answers and denies (status 403); the audit log of the authenticator has the reason" ;;
    000 | 409 | 429 | 5??)
        echo "identity: no answer now (status $status)"
        again=1
        ;;
    *)
        echo "identity: not there (status $status)"
        wrong=1
        ;;
    esac
    [ -z "$wrong" ] || exit 1
    [ -z "$again" ] || exit 75
    exit 0
}

by_metadata() {
    ask "/identity/token?format=token&role=$(escape "$role")${audience:+&audience=$(escape "$audience")}" -X PUT
}

# find_drive: the directory of the config drive is then $drive; it fails without one.
looked=
find_drive() {
    if [ -n "$looked" ]; then
        [ -d "$drive" ]
        return
    fi
    looked=1
    if [ -z "$drive" ]; then
        for drive in /dev/disk/by-label/config-2 /dev/disk/by-label/CONFIG-2 "$(findfs LABEL=config-2 2>/dev/null)" ''; do
            [ ! -e "$drive" ] || break
        done
    fi
    [ -n "$drive" ] || return 1
    [ ! -d "$drive" ] || return 0
    disk=$(readlink -f "$drive") || return 1
    # A FUSE mount of a user can name any device.
    while read -r from at kind _; do
        case $from:$kind in
        "$disk:fuse"*) ;;
        "$disk:"*)
            drive=$(printf '%b' "$(printf %s "$at" | sed 's/\\/\\0/g')")
            return 0
            ;;
        esac
    done </proc/mounts
    mkdir "$work/drive" || return 1
    for kind in iso9660 vfat; do
        if mount -t "$kind" -o ro,nosuid,nodev,noexec "$disk" "$work/drive" 2>"$work/said"; then
            mounted=$work/drive drive=$work/drive
            return 0
        fi
    done
    say "the config drive $drive cannot be mounted: $(cat "$work/said")"
    return 1
}

# on_drive FILE: the body is a file of Nova's on the config drive.
on_drive() {
    find_drive && cat "$drive/openstack/latest/$1" >"$body" 2>/dev/null
}

# A document goes to curl in a file, not on a command line, which other users can see.
by_auth() { # NAME VALUE
    if [ -z "$url" ]; then
        say "no URL; name one with -u"
        status=000
        return
    fi
    printf %s "$2" >"$value"
    fetch ${cafile:+--cacert "$cafile"} "$url/auth" --data-urlencode "role=$role" -d format=token \
        ${audience:+--data-urlencode "audience=$audience"} --data-urlencode "$1@$value"
}

# The document in the body, after our name: other services may have a document, too.
document() {
    grep -o "\"$target\": *{.*" "$body" | grep -o '"document": *"[^"]*"' | head -n 1 | cut -d '"' -f 4
}

by_document() {
    ask /openstack/latest/vendor_data2.json
    text=
    [ "$status" != 200 ] || text=$(document)
    if [ -z "$text" ] && on_drive vendor_data2.json; then
        text=$(document)
    fi
    if [ -n "$text" ]; then
        by_auth document "$text"
    elif [ "$status" = 200 ]; then
        status=404
    fi
}

by_address() {
    ask /openstack/latest/meta_data.json
    if [ "$status" = 200 ] || on_drive meta_data.json; then
        by_auth instance_id "$(field uuid)"
    fi
}

[ -z "$check" ] || check

again=
for way in $ways; do
    case $way in
    metadata) by_metadata ;;
    document) by_document ;;
    address) by_address ;;
    *)
        say "the way $way is not metadata, document or address"
        exit 2
        ;;
    esac
    token=
    [ "$status" != 200 ] || token=$(grep -x '[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*' "$body" | head -n 1)
    if [ -n "$token" ]; then
        if [ -z "$output" ]; then
            printf '%s\n' "$token"
            exit 0
        fi
        # mktemp makes the file, for its owner alone, or fails; it follows no link.
        if enter "$directory" && new=$(mktemp ./.token.XXXXXX) && printf '%s\n' "$token" >"$new" && mv -f "$new" "./$name"; then
            new=
            exit 0
        fi
        say "$output cannot be written"
        exit 2
    fi
    case $status in
    000 | 409 | 429 | 5??) again=1 ;;
    esac
    say "$way: no token (status $status)"
done
[ -z "$again" ] || exit 75
exit 1
