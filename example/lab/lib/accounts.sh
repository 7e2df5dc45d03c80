# shellcheck shell=bash
# clouds.yaml with every account of the lab, and an openrc of the admin's.

# cloud NAME TYPE SCOPE, the lines of `auth` on standard input
cloud() {
  printf '  %s:\n    auth_type: %s\n    auth:\n      auth_url: http://127.0.0.1:5000/v3\n' "$1" "$2"
  sed 's/^/      /'
  printf '    region_name: %s\n' "$REGION"
}

write_accounts() { # again when demo.json is there, which has the id of the application credential
  local name user scope credential
  {
    echo "clouds:"
    while read -r name user scope; do
      {
        printf 'username: %s\npassword: %s\nuser_domain_name: Default\n' "$user" "$SECRET"
        case $scope in
          system) echo "system_scope: all" ;;
          domain) echo "domain_name: Default" ;;
          *) printf 'project_name: %s\nproject_domain_name: Default\n' "$scope" ;;
        esac
      } | cloud "$name" password
    done <<'ACCOUNTS'
admin admin admin
system-admin admin system
domain-admin admin domain
demo demo workloads
demo-reader demo-reader workloads
other other other
no-rights no-rights service
auditor auditor system
authenticator authenticator service
authenticator-admin authenticator-admin service
nova-vendordata nova-vendordata service
ACCOUNTS
    credential=$(jq -r '.application_credential // empty' "$STATE/demo.json" 2>/dev/null)
    [ -z "$credential" ] ||
      printf 'application_credential_id: %s\napplication_credential_secret: %s\n' "$credential" "$SECRET" |
      cloud authenticator-appcred v3applicationcredential
  } >"$STATE/clouds.yaml.new"
  mv "$STATE/clouds.yaml.new" "$STATE/clouds.yaml"
  # As Kolla-Ansible's admin-openrc.sh.
  cat >"$STATE/openrc" <<VARIABLES
# The admin account as variables. For another account use clouds.yaml instead (OS_CLIENT_CONFIG_FILE and OS_CLOUD), not
# both: these variables win over what clouds.yaml says.
export OS_PROJECT_DOMAIN_NAME='Default'
export OS_USER_DOMAIN_NAME='Default'
export OS_PROJECT_NAME='admin'
export OS_TENANT_NAME='admin'
export OS_USERNAME='admin'
export OS_PASSWORD='$SECRET'
export OS_AUTH_URL='http://127.0.0.1:5000'
export OS_INTERFACE='internal'
export OS_ENDPOINT_TYPE='internalURL'
export OS_IDENTITY_API_VERSION='3'
export OS_REGION_NAME='$REGION'
export OS_AUTH_PLUGIN='password'
VARIABLES
}
