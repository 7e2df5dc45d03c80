#!/bin/sh
# Exchanges this instance's token for a Keystone token, scoped to a project, and prints that.
#
#   keystone-token.sh -k AUTH_URL -p PROJECT_ID [-i IDP] [-f PROTOCOL] [-t FILE] [-c CAFILE]
#
#   -k AUTH_URL    Keystone, such as https://keystone.example.com:5000/v3; default: $OS_AUTH_URL
#   -p PROJECT_ID  default: $OS_PROJECT_ID
#   -i IDP         the identity provider's name in Keystone; default: nova-authenticator
#   -f PROTOCOL    default: openid
#   -t FILE        the instance's token; default: /run/instance-token/token
#   -c CAFILE      default: $OS_CACERT, else the system's
#
# The Keystone token lives as long as Keystone says (an hour by default), however short the other one did.
set -eu
umask 077

auth_url=${OS_AUTH_URL:-} project=${OS_PROJECT_ID:-} idp=nova-authenticator protocol=openid file=/run/instance-token/token cafile=${OS_CACERT:-}
usage() {
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
    exit "$1"
}
[ "${1:-}" != --help ] || usage 0
while getopts k:p:i:f:t:c:h option; do
    case $option in
    k) auth_url=$OPTARG ;;
    p) project=$OPTARG ;;
    i) idp=$OPTARG ;;
    f) protocol=$OPTARG ;;
    t) file=$OPTARG ;;
    c) cafile=$OPTARG ;;
    h) usage 0 ;;
    *) usage 2 >&2 ;;
    esac
done
if [ -z "$auth_url" ] || [ -z "$project" ]; then
    echo "${0##*/}: Keystone's URL (-k) and a project (-p) are needed" >&2
    exit 2
fi
auth_url=${auth_url%/}

subject_token() { grep -i '^x-subject-token:' | cut -d ' ' -f 2 | tr -d '\r'; }

# Tokens go to curl on its standard input, not on a command line that others can see.
unscoped=$(
    printf 'header = "Authorization: Bearer %s"\n' "$(cat "$file")" |
        curl -sS -f -m 20 ${cafile:+--cacert "$cafile"} -X POST -D - -o /dev/null -K - \
            "$auth_url/OS-FEDERATION/identity_providers/$idp/protocols/$protocol/auth" | subject_token
)
[ -n "$unscoped" ] || exit 1
printf '{"auth":{"identity":{"methods":["token"],"token":{"id":"%s"}},"scope":{"project":{"id":"%s"}}}}' "$unscoped" "$project" |
    curl -sS -f -m 20 ${cafile:+--cacert "$cafile"} -X POST -D - -o /dev/null -H 'Content-Type: application/json' -d @- "$auth_url/auth/tokens" | subject_token
