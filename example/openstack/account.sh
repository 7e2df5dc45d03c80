#!/bin/sh
# Makes the account that looks instances up, with the least rights that are enough, and prints a clouds.yaml for it.
#
#   account.sh [-p] [-a] > clouds.yaml
#
#   -p  take the account's password from the first line of standard input, also for an account that exists
#       (without it a new account gets a random password, and an existing one keeps its own)
#   -a  make an application credential for it, good for one URL of Nova only; an account that exists needs -p as well
#
# Run it as an administrator of the cloud (OS_CLOUD or OS_*). It may be run again: what exists is left as it is. Other
# names, from the environment: ACCOUNT, PROJECT, DOMAIN (of both), ROLE, INTERFACE (of Nova's endpoint).
set -eu
umask 077

account=${ACCOUNT:-openstack-nova-authenticator}
project=${PROJECT:-service}
domain=${DOMAIN:-default}
role=${ROLE:-instance_reader}
interface=${INTERFACE:-public}

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
line() { printf '%s\n' "$*"; } # echo would read a backslash in a password its own way
die() {
    say "$@"
    exit 1
}

ask_password=
restrict=
while getopts pa option; do
    case $option in
    p) ask_password=1 ;;
    a) restrict=1 ;;
    *)
        sed -n '2,12s/^# \{0,1\}//p' "$0" >&2
        exit 2
        ;;
    esac
done

for command in openstack curl; do
    command -v "$command" >/dev/null || die "$command is missing"
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# What the administrator's own login says of the cloud: setting KEY
openstack configuration show -f shell >"$work/settings"
setting() { sed -n "s/^$1=\"\(.*\)\"\$/\1/p" "$work/settings" | grep -vx None || true; }
auth_url=$(setting auth.auth_url) # the dot is an underscore in some versions of the command
region=$(setting region_name)
cacert=$(setting cacert)
insecure=
[ "$(setting verify)" != False ] || insecure=--insecure
[ -n "$auth_url" ] || die "no auth_url: set OS_CLOUD or OS_AUTH_URL"
auth_url=${auth_url%/}
auth_url=${auth_url%/v3}/v3

password=
if [ -n "$ask_password" ]; then
    IFS= read -r password || [ -n "$password" ] || die "no password on standard input"
    case $password in
    '' | *[[:cntrl:]]*) die "the password is empty or has control characters" ;;
    esac
fi

# keystone METHOD PATH, the body on standard input. Not the openstack command: it takes a password only as an argument,
# which every user of this machine can read, or from a terminal.
keystone() {
    cat >"$work/body"
    printf 'X-Auth-Token: %s\nContent-Type: application/json\n' "$(openstack token issue -f value -c id)" >"$work/headers"
    status=$(curl -sS $insecure ${cacert:+--cacert "$cacert"} -X "$1" -H "@$work/headers" --data-binary "@$work/body" \
        -o "$work/answer" -w '%{http_code}' "$auth_url$2")
    case $status in
    2??) ;;
    *) die "keystone: $1 $2: $status $(cat "$work/answer")" ;;
    esac
}
in_json() { printf '%s' "$1" | sed 's/[\\"]/\\&/g'; }

domain_id=$(openstack domain show -f value -c id "$domain")
domain_name=$(openstack domain show -f value -c name "$domain")
project_id=$(openstack project show --domain "$domain_id" -f value -c id "$project")

if openstack role show "$role" >/dev/null 2>&1; then
    say "role $role exists"
else
    openstack role create --description "sees the servers of all projects, one by one" "$role" >/dev/null
    say "role $role created"
fi

if user_id=$(openstack user show --domain "$domain_id" -f value -c id "$account" 2>/dev/null); then
    say "user $account exists"
    if [ -n "$password" ]; then
        printf '{"user": {"password": "%s"}}' "$(in_json "$password")" | keystone PATCH "/users/$user_id"
        say "its password is set"
    fi
else
    [ -n "$password" ] || password=$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')
    printf '{"user": {"name": "%s", "domain_id": "%s", "default_project_id": "%s", "password": "%s", "description": "%s"}}' \
        "$(in_json "$account")" "$domain_id" "$project_id" "$(in_json "$password")" "looks up instances for their tokens" |
        keystone POST /users
    user_id=$(openstack user show --domain "$domain_id" -f value -c id "$account")
    say "user $account created"
fi

for name in reader "$role"; do
    if [ -n "$(openstack role assignment list --user "$user_id" --project "$project_id" --role "$name" -f value)" ]; then
        say "it has the role $name in project $project"
    else
        openstack role add --user "$user_id" --project "$project_id" "$name"
        say "it got the role $name in project $project"
    fi
done

# clouds: the file, with what logs in on standard input
in_yaml() { printf "'%s'" "$(printf '%s' "$1" | sed "s/'/''/g")"; }
clouds() {
    line "clouds:"
    line "  openstack-nova-authenticator:"
    cat
    [ -z "$region" ] || line "    region_name: $(in_yaml "$region")"
    [ -z "$cacert" ] || line "    cacert: $(in_yaml "$cacert")"
    [ -z "$insecure" ] || line "    # this login was told not to verify certificates; give the file a cacert instead"
}
with_password() {
    line "    auth_type: password"
    line "    auth:"
    line "      auth_url: $(in_yaml "$auth_url")"
    line "      username: $(in_yaml "$account")"
    if [ -n "$password" ]; then
        line "      password: $(in_yaml "$password")"
    else
        line "      password: # the one it has; account.sh -p sets another"
    fi
    line "      project_name: $(in_yaml "$project")"
    line "      user_domain_name: $(in_yaml "$domain_name")"
    line "      project_domain_name: $(in_yaml "$domain_name")"
}
with_credential() {
    line "    auth_type: v3applicationcredential"
    line "    auth:"
    line "      auth_url: $(in_yaml "$auth_url")"
    line "      application_credential_id: $(in_yaml "$1")"
    line "      application_credential_secret: $(in_yaml "$2")"
}

if [ -z "$restrict" ]; then
    with_password | clouds
    exit
fi

# The path that Nova sees: that of its endpoint, whatever stands in front.
url=$(openstack endpoint list --service compute --interface "$interface" ${region:+--region "$region"} -f value -c URL | sed -n 1p)
[ -n "$url" ] || die "the catalog has no $interface endpoint of compute"
path=$(printf '%s\n' "$url" | sed 's,^[a-z]*://[^/]*,,; s,/*$,,; s,[$%]([a-z]*_id)s,{project_id},')
printf '[{"service": "compute", "method": "GET", "path": "%s"}]\n' "$path/servers/detail" >"$work/rules.json"

# Only the account itself can make its application credential.
[ -n "$password" ] || die "-a for an account that exists needs its password: -p"
{ with_password | clouds; } >"$work/clouds.yaml"
as_account() (
    for variable in $(env | sed -n 's/^\(OS_[A-Z0-9_]*\)=.*/\1/p'); do unset "$variable"; done
    export OS_CLIENT_CONFIG_FILE="$work/clouds.yaml" OS_CLOUD=openstack-nova-authenticator
    [ -z "$insecure" ] || set -- "$@" "$insecure"
    openstack "$@"
)
if as_account application credential list -f value -c Name | grep -qxF "$account"; then
    die "application credential $account exists, and its secret is shown only once; delete it to make another"
fi
as_account application credential create --access-rules "$work/rules.json" -f shell -c id -c secret "$account" >"$work/credential"
say "application credential $account created, for GET $path/servers/detail only"
with_credential "$(sed -n 's/^id="\(.*\)"$/\1/p' "$work/credential")" \
    "$(sed -n 's/^secret="\(.*\)"$/\1/p' "$work/credential")" | clouds
