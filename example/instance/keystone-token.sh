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
# The Keystone token lives as long as Keystone says (an hour by default), however short the other one lives.
#
# Proxies (http_proxy and the like), .curlrc and redirects are ignored.
set -eu
umask 077
export LC_ALL=C
unset SSLKEYLOGFILE # curl would write the keys of its connections there

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
# Refuse a value that would be an option of curl, several URLs, or more than a value in JSON.
case $auth_url in
*[!!-~]* | *[\\{}]*) auth_url= ;;
http://?* | https://?*) ;;
*) auth_url= ;;
esac
case $project$idp$protocol in
*[!A-Za-z0-9._-]*) auth_url= ;;
esac
if [ -z "$auth_url" ]; then
    echo "${0##*/}: Keystone's URL is not a URL, or the project, the provider or the protocol has a character that is not allowed" >&2
    exit 2
fi
auth_url=${auth_url%/}
token=$(grep -x '[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*' <"$file" | head -n 1)
if [ -z "$token" ]; then
    echo "${0##*/}: $file holds no token" >&2
    exit 1
fi

post() {
    curl -q --noproxy '*' --proto '=http,https' --max-redirs 0 --max-filesize 1048576 -g -sS -f -m 20 ${cafile:+--cacert "$cafile"} \
        -X POST -D - -o /dev/null "$@" | grep -i '^x-subject-token:' | head -n 1 | cut -d ' ' -f 2 | tr -cd 'A-Za-z0-9._=-'
}

# Tokens go to curl on its standard input, not on a command line, which other users can see.
unscoped=$(
    printf 'header = "Authorization: Bearer %s"\n' "$token" |
        post -K - "$auth_url/OS-FEDERATION/identity_providers/$idp/protocols/$protocol/auth"
)
[ -n "$unscoped" ] || exit 1
scoped=$(
    printf '{"auth":{"identity":{"methods":["token"],"token":{"id":"%s"}},"scope":{"project":{"id":"%s"}}}}' "$unscoped" "$project" |
        post -H 'Content-Type: application/json' -d @- "$auth_url/auth/tokens"
)
[ -n "$scoped" ] || exit 1
printf '%s\n' "$scoped"
