// Package clouds reads which OpenStack cloud to call, and with which account, from the files and variables of the
// openstack command: clouds.yaml, secure.yaml, clouds-public.yaml and OS_*.
//
// It promises the same account, scope, URLs and certificates as openstacksdk
// (https://docs.openstack.org/openstacksdk/latest/user/config/configuration.html), which a test of pkg/openstack compares
// with it, except:
//
//   - A value is used as it is written. PyYAML reads 0123 as 83 and yes as true, so that openstacksdk logs in with another
//     password; [Read] warns of such a value.
//   - An auth_type other than password and application credential is an error. Others cannot renew their token, or would
//     send the password of an identity provider to Keystone.
//   - An account or a project without a domain belongs to the domain "default", as in python-openstackclient. With
//     openstacksdk Keystone refuses it.
//   - Without an auth_type and a password, an application credential is used.
//   - A profile that is a URL is not fetched.
//   - secure.yaml is also looked for beside clouds.yaml.
//   - A cloud of clouds.yaml with the name of OS_CLOUD_NAME is used. openstacksdk refuses to choose between it and OS_*.
//   - Null counts as absent. openstacksdk uses it as the text None in some places, and fails in others.
//   - auth_plugin, the old name of auth_type, is read if there is no auth_type.
//   - A key that decides where or how the cloud is called, and that this package does not know, is a warning.
//
// With a named cloud only OS_CLOUD, OS_CLIENT_CONFIG_FILE and OS_CLIENT_SECURE_FILE are read from the environment, and
// OS_REGION_NAME if the cloud has no region. The openstack command reads the rest of OS_*, too, so that its account
// depends on the shell; that of a server must not.
//
// The package makes no call and reads no other files: it does not promise that the paths of certificates exist.
package clouds
