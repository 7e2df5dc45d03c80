#!/bin/sh
# Prints user data that makes an instance keep its token in /run/instance-token/token: cloud-init.yaml, with the files
# beside it inserted.
#
#   user-data.sh [-r ROLE] [-a AUDIENCE] [-u URL] [-c CAFILE] [-i INTERFACE] [-d DRIVE]
#
#   -r ROLE      the role; default: web
#   -a AUDIENCE  the service that the token is for; default: the role's first
#   -u URL       the authenticator, such as https://id.example.com; not needed for the metadata service
#   -c CAFILE    the CA of its certificate, in PEM, which the instance then trusts; default: the CAs that its image has
#   -i INTERFACE the interface on which the metadata service is asked at fe80::a9fe:a9fe; default: token.sh finds it
#   -d DRIVE     the config drive, as token.sh takes it; default: token.sh finds it
#
# openstack server create --user-data takes a file:  user-data.sh -r web >user-data.yaml
set -u

unset CDPATH
here=$(cd -- "$(dirname -- "$0")" && pwd)
role=web audience='' url='' cafile='' interface='' drive=''

usage() {
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
    exit "$1"
}
die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 2
}

[ "${1:-}" != --help ] || usage 0
while getopts r:a:u:c:i:d:h option; do
    case $option in
    r) role=$OPTARG ;;
    a) audience=$OPTARG ;;
    u) url=$OPTARG ;;
    c) cafile=$OPTARG ;;
    i) interface=$OPTARG ;;
    d) drive=$OPTARG ;;
    h) usage 0 ;;
    *) usage 2 >&2 ;;
    esac
done
shift $((OPTIND - 1))
[ $# = 0 ] || usage 2 >&2
# They go into a file that systemd reads, where blanks, quotes and backslashes mean something.
case $role$audience$url in
*[!]A-Za-z0-9._~:/?#@\&+,\;=%[-]*) die "a role, an audience or a URL has a character that is not allowed" ;;
esac
case $url in
'' | http://?* | https://?*) ;;
*) die "a URL begins with http:// or https://" ;;
esac
case $interface in
*[!A-Za-z0-9._-]*) die "an interface has a character that none has" ;;
esac
case $drive in
'' | /*) ;;
*) die "the config drive is not an absolute path" ;;
esac
case $drive in
*[!A-Za-z0-9._/:-]*) die "the path of the config drive has a character that is not taken" ;;
esac
[ -n "$role" ] || die "the role is empty"
[ -z "$cafile" ] || grep -qs -e '-----BEGIN CERTIFICATE-----' -- "$cafile" || die "$cafile holds no certificate (PEM)"
# A private key beside the certificate would be readable in the user data.
[ -z "$cafile" ] || ! grep -q -e 'PRIVATE KEY' -- "$cafile" || die "$cafile holds a private key"

# A line that is <NAME> stands for a file, each line of which is as far to the right.
export here cafile
settings="ROLE=$role${audience:+ AUDIENCE=$audience}${url:+ URL=$url}${interface:+ INTERFACE=$interface}${drive:+ CONFIG_DRIVE=$drive}" awk '
    BEGIN { here = ENVIRON["here"]; cafile = ENVIRON["cafile"] }
    /^[a-z]/ { skip = $1 == "ca_certs:" && cafile == "" }
    skip { next }
    $1 ~ /^<.*>$/ && NF == 1 {
        indent = $0
        sub(/<.*/, "", indent)
        name = substr($1, 2, length($1) - 2)
        if (name == "SETTINGS") {
            n = split(ENVIRON["settings"], setting, " ")
            for (i = 1; i <= n; i++) print indent setting[i]
            next
        }
        file = name == "CAFILE" ? cafile : here "/" name
        while ((status = (getline line < file)) > 0) print line == "" ? "" : indent line
        if (status < 0) { print FILENAME ": " file " cannot be read" > "/dev/stderr"; exit 2 }
        close(file)
        next
    }
    { print }
' "$here/cloud-init.yaml"
