// Package clouds reads which OpenStack cloud to call, and with which account, from
// the files and variables of the openstack command: clouds.yaml, secure.yaml,
// clouds-public.yaml and OS_*.
//
// It follows openstacksdk
// (https://docs.openstack.org/openstacksdk/latest/user/config/configuration.html),
// and a test of pkg/openstack compares the two. What differs, and why:
//
//   - A value is used as it is written. PyYAML reads 0123 as 83 and yes as true, so
//     that openstacksdk logs in with another password; [Read] warns of such a value.
//   - An auth_type other than password and application credential is an error. Other
//     kinds cannot renew their token, or would send the password of an identity
//     provider to Keystone.
//   - An account or a project without a domain belongs to the domain "default", as in
//     python-openstackclient; openstacksdk lets Keystone refuse it.
//   - Without an auth_type and without a password, an application credential is used.
//   - A profile that is a URL is not fetched.
//   - secure.yaml is looked for beside clouds.yaml as well.
//   - A cloud of clouds.yaml that has the name of OS_CLOUD_NAME is used; openstacksdk
//     refuses to choose between it and OS_*.
//   - Null is as good as no value. openstacksdk takes it for the text None in some
//     places, and fails in others.
//   - With auth_plugin alone, the old name of auth_type, its value is the auth_type.
//   - A key that has to do with the way to the cloud, and that this package does not
//     know, is a warning.
//
// With a named cloud only OS_CLOUD, OS_CLIENT_CONFIG_FILE and OS_CLIENT_SECURE_FILE
// are read of the environment, and OS_REGION_NAME if the cloud has no region. The
// openstack command reads the rest of OS_* as well, so that the account depends on the
// shell; a server must not.
//
// The package makes no call and reads no file but those named above: certificates are
// read by the caller.
package clouds
