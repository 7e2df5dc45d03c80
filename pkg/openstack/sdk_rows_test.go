package openstack_test

import "strings"

// Parts of clouds.yaml.
const (
	credentials = `auth_url: "@AUTH", username: authenticator, password: correct-horse, `
	inDomains   = `user_domain_name: Default, project_domain_name: Default`
	inAuth      = `auth: {` + credentials + `project_name: service, ` + inDomains + `}`
	inAuthTLS   = `auth: {auth_url: "@HTTPS/identity/v3", username: authenticator, password: correct-horse, project_name: service, ` + inDomains + `}`
	unscoped    = `auth: {` + credentials + `user_domain_name: Default}`
	byAppCred   = `application_credential_id: credential-id, application_credential_secret: battery-staple`
)

// oneCloud returns a clouds.yaml with the cloud mine of these lines.
func oneCloud(lines ...string) map[string]string {
	return map[string]string{"clouds.yaml": cloudNamed("mine", lines...)}
}

func cloudNamed(name string, lines ...string) string {
	text := "clouds:\n  " + name + ":\n"
	for _, line := range lines {
		text += "    " + strings.ReplaceAll(line, "\n", "\n    ") + "\n"
	}
	return text
}

// and merges maps.
func and(all ...map[string]string) map[string]string {
	one := map[string]string{}
	for _, m := range all {
		for key, value := range m {
			one[key] = value
		}
	}
	return one
}

// openrc returns the variables of a login by password with changes. "-" removes a variable.
func openrc(changes ...string) map[string]string {
	env := map[string]string{
		"OS_AUTH_URL": "@AUTH", "OS_USERNAME": "authenticator", "OS_PASSWORD": password, "OS_PROJECT_NAME": "service",
		"OS_USER_DOMAIN_NAME": "Default", "OS_PROJECT_DOMAIN_NAME": "Default",
	}
	for i := 0; i < len(changes); i += 2 {
		env[changes[i]] = changes[i+1]
	}
	return env
}

func env(pairs ...string) map[string]string {
	m := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return m
}

// manyEndpoints is a catalog of two regions and three interfaces.
var manyEndpoints = shape{nova: []string{"/one/internal", "/one/public", "/one/admin", "/two/internal", "/two/public", "/two/admin"}, catalog: []string{
	"RegionOne internal @HTTP/one/internal/v2.1", "RegionOne public @HTTP/one/public/v2.1", "RegionOne admin @HTTP/one/admin/v2.1",
	"RegionTwo internal @HTTP/two/internal/v2.1", "RegionTwo public @HTTP/two/public/v2.1", "RegionTwo admin @HTTP/two/admin/v2.1",
}}

func endpoints(lines ...string) shape { return shape{catalog: lines} }

const (
	userInDefault    = `"identity":{"methods":["password"],"password":{"user":{"name":"authenticator","domain":{"id":"default"},"password":"correct-horse"}}}`
	account          = `{"auth":{"identity":` + byDefaultName + `,"scope":` + inDefaultName + `}}`
	projectInDefault = `"scope":{"project":{"name":"service","domain":{"id":"default"}}}`

	sameName = "the named cloud of the file is used; the SDK refuses to choose between it and the OS_* variables"
	null     = "null counts as absent"
	noDomain = "a user or a project without a domain belongs to the domain default, as with the openstack command; the SDK names no domain, which Keystone refuses"
)

var sdkRows = []sdkRow{
	// Files of deployments and dashboards.
	{
		name: "Kolla-Ansible: admin-openrc.sh",
		env: openrc("OS_TENANT_NAME", "service", "OS_INTERFACE", "internal", "OS_ENDPOINT_TYPE", "internalURL", "OS_IDENTITY_API_VERSION", "3",
			"OS_REGION_NAME", "RegionOne", "OS_AUTH_PLUGIN", "password", "OS_MANILA_ENDPOINT_TYPE", "internalURL", "OS_MISTRAL_ENDPOINT_TYPE", "internalURL"),
		shape: manyEndpoints,
	},
	{
		name: "Kolla-Ansible: public-openrc.sh with TLS",
		env: openrc("OS_AUTH_URL", "@HTTPS/identity", "OS_TENANT_NAME", "service", "OS_INTERFACE", "public", "OS_ENDPOINT_TYPE", "publicURL",
			"OS_IDENTITY_API_VERSION", "3", "OS_REGION_NAME", "RegionOne", "OS_AUTH_PLUGIN", "password", "OS_CACERT", "@HERE/ca.pem"),
	},
	{name: "Kolla-Ansible: clouds.yaml, kolla-admin-internal", cloud: "kolla-admin-internal", files: map[string]string{"clouds.yaml": kollaClouds}, shape: manyEndpoints},
	{name: "Kolla-Ansible: clouds.yaml, kolla-admin", cloud: "kolla-admin", files: map[string]string{"clouds.yaml": kollaClouds}, shape: manyEndpoints},
	{name: "Kolla-Ansible: clouds.yaml, kolla-admin-system", cloud: "kolla-admin-system", files: map[string]string{"clouds.yaml": kollaClouds}, shape: manyEndpoints},
	{
		name: "DevStack: openrc",
		env: openrc("OS_AUTH_URL", "@HTTP/identity", "OS_AUTH_TYPE", "password", "OS_IDENTITY_API_VERSION", "3", "OS_REGION_NAME", "RegionOne",
			"OS_USER_DOMAIN_ID", "default", "OS_PROJECT_DOMAIN_ID", "default", "OS_USER_DOMAIN_NAME", "-", "OS_PROJECT_DOMAIN_NAME", "-",
			"OS_TENANT_NAME", "service", "OS_VOLUME_API_VERSION", "3", "OS_CACERT", ""),
	},
	{
		name: "DevStack: openrc before domains had names of their own",
		env: env("OS_AUTH_URL", "@HTTP/identity", "OS_USERNAME", "authenticator", "OS_PASSWORD", password, "OS_PROJECT_NAME", "service",
			"OS_DEFAULT_DOMAIN_ID", "default", "OS_IDENTITY_API_VERSION", "3", "OS_NO_CACHE", "1"),
	},
	{name: "DevStack: clouds.yaml, devstack-admin", env: env("OS_CLOUD", "devstack-admin"), files: map[string]string{"home/.config/openstack/clouds.yaml": devstackClouds}},
	{name: "DevStack: clouds.yaml, devstack-system-admin", env: env("OS_CLOUD", "devstack-system-admin"), files: map[string]string{"home/.config/openstack/clouds.yaml": devstackClouds}},
	{name: "DevStack: clouds.yaml with TLS", env: env("OS_CLOUD", "devstack"), files: map[string]string{"home/.config/openstack/clouds.yaml": devstackClouds}},
	{
		name: "OpenStack-Ansible: openrc",
		env: openrc("CINDER_ENDPOINT_TYPE", "internalURL", "NOVA_ENDPOINT_TYPE", "internalURL", "OS_ENDPOINT_TYPE", "internalURL", "OS_INTERFACE", "internalURL",
			"OS_TENANT_NAME", "service", "OS_AUTH_TYPE", "password", "OS_NO_CACHE", "1", "OS_REGION_NAME", "RegionOne", "OS_IDENTITY_API_VERSION", "3", "OS_AUTH_VERSION", "3"),
		shape: manyEndpoints,
	},
	{
		name: "OpenStack-Ansible: clouds.yaml", cloud: "default",
		files: map[string]string{"home/.config/openstack/clouds.yaml": cloudNamed("default", `auth:
  auth_url: @HTTPS/identity
  project_name: service
  tenant_name: service
  username: authenticator
  password: correct-horse
  user_domain_name: Default
  project_domain_name: Default
region_name: RegionOne
interface: internal
identity_api_version: "3"
verify: false`)},
		shape: endpoints("RegionOne public @HTTP/compute/v2.1", "RegionOne internal @HTTPS/compute/v2.1"),
	},
	{
		name: "Charmed OpenStack: openrcv3_project",
		env: openrc("OS_AUTH_PROTOCOL", "https", "OS_CACERT", "@HERE/ca.pem", "OS_AUTH_URL", "@HTTPS/identity/v3", "OS_USER_DOMAIN_NAME", "admin_domain",
			"OS_PROJECT_DOMAIN_NAME", "admin_domain", "OS_REGION_NAME", "RegionOne", "OS_IDENTITY_API_VERSION", "3", "OS_AUTH_VERSION", "3", "OS_AUTH_TYPE", "password"),
	},
	{
		name: "Charmed OpenStack: openrcv3_domain",
		env: env("OS_AUTH_URL", "@AUTH", "OS_USERNAME", "authenticator", "OS_PASSWORD", password, "OS_USER_DOMAIN_NAME", "admin_domain",
			"OS_DOMAIN_NAME", "admin_domain", "OS_IDENTITY_API_VERSION", "3", "OS_AUTH_VERSION", "3"),
	},
	{
		name: "Juju: the variables of a credential for OpenStack",
		env: env("OS_AUTH_URL", "@AUTH", "OS_AUTH_VERSION", "3", "OS_USERNAME", "authenticator", "OS_PASSWORD", password, "OS_TENANT_NAME", "service", "OS_TENANT_ID", "service-id",
			"OS_USER_DOMAIN_NAME", "Default", "OS_PROJECT_DOMAIN_NAME", "Default", "OS_DOMAIN_NAME", "", "OS_REGION_NAME", "RegionOne"),
	},
	{
		name:  "Sunbeam: openrc",
		env:   openrc("OS_AUTH_VERSION", "3", "OS_IDENTITY_API_VERSION", "3", "OS_AUTH_URL", "@HTTP/openstack-keystone/v3", "OS_USER_DOMAIN_NAME", "admin_domain", "OS_PROJECT_DOMAIN_NAME", "admin_domain"),
		shape: shape{keystone: "/openstack-keystone", nova: []string{"/openstack-nova"}},
	},
	{
		name: "TripleO: overcloudrc",
		env: openrc("OS_CLOUDNAME", "overcloud", "OS_NO_CACHE", "True", "COMPUTE_API_VERSION", "1.1", "NOVA_VERSION", "1.1", "OS_IMAGE_API_VERSION", "2",
			"OS_COMPUTE_API_VERSION", "2.latest", "OS_IDENTITY_API_VERSION", "3", "OS_AUTH_TYPE", "password", "OS_VOLUME_API_VERSION", "3", "PYTHONWARNINGS", "ignore"),
	},
	{name: "Packstack: keystonerc_admin", env: openrc("OS_REGION_NAME", "RegionOne", "OS_IDENTITY_API_VERSION", "3", "OS_SERVICE_TOKEN", "", "PS1", "# ")},
	{name: "the installation guide: admin-openrc", env: openrc("OS_IDENTITY_API_VERSION", "3", "OS_IMAGE_API_VERSION", "2")},
	{
		name: "Horizon: openrc",
		env: openrc("OS_PROJECT_ID", "service-id", "OS_PROJECT_DOMAIN_NAME", "-", "OS_PROJECT_DOMAIN_ID", "default", "OS_REGION_NAME", "RegionOne",
			"OS_INTERFACE", "public", "OS_IDENTITY_API_VERSION", "3"),
	},
	{
		name:    "Horizon: openrc of a user without a project",
		env:     openrc("OS_PROJECT_NAME", "", "OS_PROJECT_ID", "", "OS_PROJECT_DOMAIN_NAME", "", "OS_REGION_NAME", "", "OS_INTERFACE", "public"),
		refused: "no scope",
	},
	{
		name: "Horizon: clouds.yaml, and the password in secure.yaml", env: env("OS_CLOUD", "openstack"),
		files: map[string]string{
			"home/.config/openstack/clouds.yaml": cloudNamed("openstack", `auth:
  auth_url: @AUTH
  username: "authenticator"
  project_id: service-id
  project_name: "service"
  user_domain_name: "Default"
region_name: "RegionOne"
interface: "public"
identity_api_version: 3`),
			"home/.config/openstack/secure.yaml": cloudNamed("openstack", "auth: {password: correct-horse}"),
		},
	},
	{
		name: "Horizon: openrc of an application credential",
		env: env("OS_AUTH_TYPE", "v3applicationcredential", "OS_AUTH_URL", "@AUTH", "OS_IDENTITY_API_VERSION", "3", "OS_REGION_NAME", "RegionOne", "OS_INTERFACE", "public",
			"OS_APPLICATION_CREDENTIAL_ID", "credential-id", "OS_APPLICATION_CREDENTIAL_SECRET", secret),
	},
	{
		name: "Horizon: clouds.yaml of an application credential", env: env("OS_CLOUD", "openstack"),
		files: map[string]string{"clouds.yaml": cloudNamed("openstack", `
auth:
  auth_url: @AUTH
  application_credential_id: "credential-id"
  application_credential_secret: "battery-staple"
region_name: "RegionOne"
interface: "public"
identity_api_version: 3
auth_type: "v3applicationcredential"`)},
	},

	// Files of public clouds.
	{
		name: "OVHcloud: openrc.sh",
		env: openrc("OS_AUTH_URL", "@HTTP/identity/v3/", "OS_IDENTITY_API_VERSION", "3", "OS_USER_DOMAIN_NAME", "${OS_USER_DOMAIN_NAME:-\"Default\"}", "OS_TENANT_ID", "service-id",
			"OS_TENANT_NAME", "service", "OS_PROJECT_NAME", "-", "OS_REGION_NAME", "GRA11"),
		shape: endpoints("SBG5 public @HTTP/compute/v2.1/other", "GRA11 public @HTTP/compute/v2.1/@PROJECT"),
	},
	{
		name: "Open Telekom Cloud: clouds.yaml", cloud: "otc",
		files: map[string]string{"clouds.yaml": cloudNamed("otc", `profile: otc
auth:
  auth_url: '@HTTP/v3'
  username: authenticator
  password: 'correct-horse'
  project_name: eu-de
  user_domain_name: 'OTC00000000001000000xxx'
interface: public
identity_api_version: 3`)},
		shape: shape{keystone: "/", nova: []string{"/ecs"}, catalog: []string{"eu-nl public @HTTP/ecs/v2.1/nl", "eu-de public @HTTP/ecs/v2.1/@PROJECT"}},
		ours:  noDomain,
		want:  reached{Body: `{"auth":{"identity":` + strings.ReplaceAll(byDefaultName, "Default", "OTC00000000001000000xxx") + `,"scope":{"project":{"name":"eu-de","domain":{"id":"default"}}}}}`},
	},
	{
		name: "Infomaniak: openrc", env: openrc("OS_AUTH_URL", "@AUTH", "OS_PROJECT_NAME", "PCP-XXXXXX", "OS_USERNAME", "PCU-XXXXXX",
			"OS_PROJECT_DOMAIN_NAME", "default", "OS_USER_DOMAIN_NAME", "default", "OS_IDENTITY_API_VERSION", "3", "OS_INTERFACE", "public", "OS_REGION_NAME", "dc3-a", "OS_AUTH_TYPE", "password"),
		shape: endpoints("dc4-a public @HTTP/compute/v2.1/", "dc3-a public @HTTP/compute/v2.1/"),
	},
	{
		name: "Jetstream2: openrc of an application credential",
		env: env("OS_AUTH_TYPE", "v3applicationcredential", "OS_AUTH_URL", "@HTTP/identity/v3/", "OS_IDENTITY_API_VERSION", "3", "OS_REGION_NAME", "IU", "OS_INTERFACE", "public",
			"OS_APPLICATION_CREDENTIAL_ID", "credential-id", "OS_APPLICATION_CREDENTIAL_SECRET", secret),
		shape: endpoints("IU internal @HTTPS/compute/v2.1", "IU public @HTTP/compute/v2.1"),
	},
	{
		name: "Cleura: clouds.yaml with several regions", cloud: "cleura",
		files: map[string]string{"clouds.yaml": cloudNamed("cleura", `auth: {`+credentials+`project_id: service-id, user_domain_name: CCP_Domain_12345}
regions:
- Sto2
- Fra1
interface: public`)},
		shape: endpoints("Fra1 public @HTTP/compute/v2.1/fra", "Sto2 public @HTTP/compute/v2.1/@PROJECT"),
	},
	{
		name: "Chameleon: openrc", env: openrc("OS_AUTH_TYPE", "v3oidcpassword", "OS_PROTOCOL", "openid", "OS_IDENTITY_PROVIDER", "chameleon",
			"OS_DISCOVERY_ENDPOINT", "http://127.0.0.1:1/.well-known/openid-configuration", "OS_CLIENT_ID", "keystone", "OS_CLIENT_SECRET", "none", "OS_ACCESS_TOKEN_TYPE", "access_token"),
		refused: "v3oidcpassword",
	},
	{name: "CERN: openrc", env: openrc("OS_AUTH_TYPE", "v3fedkerb", "OS_IDENTITY_PROVIDER", "sssd", "OS_PROTOCOL", "kerberos"), refused: "v3fedkerb"},
	{
		name: "a lab course: clouds.yaml with all endpoints in it", cloud: "mine",
		files: oneCloud(`auth: {`+credentials+`project_id: "90f1c80288444ed4bb4e41b5aa2d003f", project_name: labredes, user_domain_name: "Default", project_domain_id: "default"}`,
			`region_name: "RegionOne"`, `identity_api_version: 3`, `compute_endpoint_override: "@HTTP/compute/v2.1/@PROJECT"`, `image_endpoint_override: "http://127.0.0.1:1/"`),
		shape: endpoints("RegionOne public http://127.0.0.1:1/v2.1"),
	},

	// Where files are.
	{name: "clouds.yaml in the working directory", cloud: "mine", files: oneCloud(inAuth)},
	{name: "clouds.yml", cloud: "mine", files: map[string]string{"clouds.yml": cloudNamed("mine", inAuth)}},
	{
		name: "clouds.json", cloud: "mine",
		files: map[string]string{"clouds.json": `{"clouds": {"mine": {"auth": {"auth_url": "@AUTH", "username": "authenticator", "password": "correct-horse", "project_name": "service", "user_domain_name": "Default", "project_domain_name": "Default"}}}}`},
	},
	{name: "clouds.yaml comes before clouds.yml", cloud: "mine", files: map[string]string{"clouds.yaml": cloudNamed("mine", inAuth), "clouds.yml": cloudNamed("mine", "auth: {}")}},
	{name: "the working directory comes before the home", cloud: "mine", files: and(oneCloud(inAuth), map[string]string{"home/.config/openstack/clouds.yaml": cloudNamed("mine", "auth: {}")})},
	{
		name: "clouds.yml in the working directory comes before clouds.yaml in the home", cloud: "mine",
		files: map[string]string{"clouds.yml": cloudNamed("mine", inAuth), "home/.config/openstack/clouds.yaml": cloudNamed("mine", "auth: {}")},
	},
	{name: "XDG_CONFIG_HOME", cloud: "mine", env: env("XDG_CONFIG_HOME", "@HERE/xdg"), files: map[string]string{"xdg/openstack/clouds.yaml": cloudNamed("mine", inAuth)}},
	{
		name: "XDG_CONFIG_HOME comes before ~/.config", cloud: "mine", env: env("XDG_CONFIG_HOME", "@HERE/xdg"),
		files: map[string]string{"xdg/openstack/clouds.yaml": cloudNamed("mine", inAuth), "home/.config/openstack/clouds.yaml": cloudNamed("mine", "auth: {}")},
	},
	{
		name: "~/.config beside an XDG_CONFIG_HOME without clouds.yaml", cloud: "mine", env: env("XDG_CONFIG_HOME", "@HERE/xdg"),
		files: map[string]string{"home/.config/openstack/clouds.yaml": cloudNamed("mine", inAuth)},
	},
	{name: "XDG_CONFIG_DIRS", cloud: "mine", env: env("XDG_CONFIG_DIRS", "@HERE/xdg"), files: map[string]string{"xdg/openstack/clouds.yaml": cloudNamed("mine", inAuth)}},
	{name: "no HOME", cloud: "mine", env: env("HOME", "-"), files: oneCloud(inAuth)},
	{
		name: "OS_CLIENT_CONFIG_FILE", cloud: "mine", env: env("OS_CLIENT_CONFIG_FILE", "@HERE/etc/my-clouds"),
		files: map[string]string{"etc/my-clouds": cloudNamed("mine", inAuth), "clouds.yaml": cloudNamed("mine", "auth: {}")},
	},
	{
		name: "OS_CLIENT_CONFIG_FILE relative to the working directory", cloud: "mine", env: env("OS_CLIENT_CONFIG_FILE", "etc/mine.yaml"),
		files: map[string]string{"etc/mine.yaml": cloudNamed("mine", inAuth)},
	},
	{name: "OS_CLIENT_CONFIG_FILE that does not exist", cloud: "mine", env: env("OS_CLIENT_CONFIG_FILE", "@HERE/nowhere.yaml"), files: oneCloud(inAuth)},
	{name: "OS_CLIENT_CONFIG_FILE that is empty", cloud: "mine", env: env("OS_CLIENT_CONFIG_FILE", ""), files: oneCloud(inAuth)},
	{name: "a clouds.yaml that is not YAML is skipped", cloud: "mine", files: map[string]string{"clouds.yaml": "clouds: [", "home/.config/openstack/clouds.yaml": cloudNamed("mine", inAuth)}},
	{
		name: "an empty clouds.yaml is used", cloud: "mine",
		files:   map[string]string{"clouds.yaml": "", "home/.config/openstack/clouds.yaml": cloudNamed("mine", inAuth)},
		refused: "mine",
	},
	{name: "a clouds.yaml without clouds", cloud: "mine", files: map[string]string{"clouds.yaml": "cache: {expiration_time: 3600}\n", "secure.yaml": cloudNamed("mine", inAuth)}},
	{
		name: "secure.yaml in another folder than clouds.yaml", cloud: "mine",
		files: and(oneCloud(`auth: {auth_url: "@AUTH", username: authenticator, project_name: service, `+inDomains+`}`),
			map[string]string{"home/.config/openstack/secure.yaml": cloudNamed("mine", "auth: {password: correct-horse}")}),
	},
	{
		name: "OS_CLIENT_SECURE_FILE", cloud: "mine", env: env("OS_CLIENT_SECURE_FILE", "@HERE/run/secrets"),
		files: and(oneCloud(`auth: {auth_url: "@AUTH", username: authenticator, project_name: service, `+inDomains+`}`),
			map[string]string{"run/secrets": cloudNamed("mine", "auth: {password: correct-horse}"), "secure.yaml": cloudNamed("mine", "auth: {password: wrong}")}),
	},
	{name: "a cloud only in secure.yaml", cloud: "mine", files: map[string]string{"secure.yaml": cloudNamed("mine", inAuth)}},
	{
		name: "secure.yml wins over clouds.yaml", cloud: "mine",
		files: and(oneCloud(`auth: {auth_url: "http://127.0.0.1:1/", username: wrong, password: wrong, project_name: service, `+inDomains+`}`, "region_name: RegionOne"),
			map[string]string{"secure.yml": cloudNamed("mine", `region_name: RegionTwo`, `auth: {auth_url: "@AUTH", username: authenticator, password: correct-horse}`)}),
		shape: manyEndpoints,
	},
	{
		name: "secure.yaml beside the file of OS_CLIENT_CONFIG_FILE", cloud: "mine", env: env("OS_CLIENT_CONFIG_FILE", "@HERE/etc/clouds.yaml"),
		files: map[string]string{
			"etc/clouds.yaml": cloudNamed("mine", `auth: {auth_url: "@AUTH", username: authenticator, project_name: service, `+inDomains+`}`),
			"etc/secure.yaml": cloudNamed("mine", "auth: {password: correct-horse}"),
		},
		ours: "secure.yaml is also looked for beside clouds.yaml; the SDK looks only in its own folders and has no password",
		want: reached{
			Login: "POST @HTTP/identity/v3/auth/tokens", Lookup: "GET @HTTP/compute/v2.1/servers/" + web,
			Body: `{"auth":{"identity":` + byDefaultName + `,"scope":` + inDefaultName + `}}`,
		},
	},

	// Profiles.
	{
		name: "a profile of clouds-public.yaml", cloud: "mine",
		files: and(oneCloud("profile: ours", "auth: {username: authenticator, password: correct-horse, project_name: service}"), map[string]string{"clouds-public.yaml": publicClouds}),
		shape: manyEndpoints,
	},
	{
		name: "a profile by its old name cloud, in another folder", cloud: "mine",
		files: and(oneCloud("cloud: ours", "auth: {username: authenticator, password: correct-horse, project_name: service}"), map[string]string{"home/.config/openstack/clouds-public.yaml": publicClouds}),
		shape: manyEndpoints,
	},
	{
		name: "the cloud wins over its profile", cloud: "mine",
		files: and(oneCloud("profile: ours", "interface: public", "region_name: RegionOne", "auth: {username: authenticator, password: correct-horse, project_name: service, user_domain_name: Mine}"), map[string]string{"clouds-public.yaml": publicClouds}),
		shape: manyEndpoints,
	},
	{name: "a profile that is unknown", cloud: "mine", files: oneCloud("profile: our-own-cloud", inAuth)},
	{name: "cloud: with the name of the cloud itself", cloud: "mine", files: oneCloud("cloud: mine", inAuth)},
	{name: "a profile that is unknown, beside a clouds-public.yaml", cloud: "mine", files: and(oneCloud("profile: our-own-cloud", inAuth), map[string]string{"clouds-public.yaml": publicClouds})},
	{name: "the SDK's profile citycloud, whose regions have values", cloud: "mine", files: oneCloud("profile: citycloud", inAuth), shape: endpoints("Buf1 public @HTTP/compute/v2.1/@PROJECT")},
	{name: "the SDK's profile catalyst with a region", cloud: "mine", files: oneCloud("profile: catalyst", "region_name: nz-hlz-1", inAuth), shape: endpoints("nz-por-1 public @HTTP/compute/v2.1/por", "nz-hlz-1 public @HTTP/compute/v2.1/@PROJECT")},
	{name: "the SDK's profile of a cloud that does not exist any more", cloud: "mine", files: oneCloud("profile: betacloud", inAuth), refused: "betacloud"},
	{
		name: "a profile that is a URL", cloud: "mine", files: oneCloud("profile: '@HTTP'", inAuth),
		ours: "a profile is not fetched: the cloud's own values are used, with a warning",
		want: reached{Login: "POST @HTTP/identity/v3/auth/tokens", Body: `{"auth":{"identity":` + byDefaultName + `,"scope":` + inDefaultName + `}}`, Lookup: "GET @HTTP/compute/v2.1/servers/" + web},
	},

	// Which cloud.
	{name: "OS_CLOUD", env: env("OS_CLOUD", "mine"), files: oneCloud(inAuth)},
	{name: "OS_CLOUD in a shell with another cloud's openrc", env: another("OS_CLOUD", "mine", "OS_REGION_NAME", "-", "OS_INTERFACE", "-"), files: oneCloud(inAuth)},
	{
		name: "a named cloud with a region and an interface in a shell with others", env: another(), cloud: "mine",
		files: oneCloud(inAuth, "region_name: RegionOne", "interface: public"), shape: manyEndpoints,
	},
	{
		name: "a named cloud without a region in a shell with one", env: env("OS_REGION_NAME", "RegionTwo"), cloud: "mine",
		files: oneCloud(inAuth), shape: manyEndpoints,
		ours: "OS_REGION_NAME is the default, as with the openstack command",
		want: reached{Lookup: "GET @HTTP/two/public/v2.1/servers/" + web},
	},
	{name: "the only cloud of clouds.yaml", files: oneCloud(inAuth)},
	{name: "the only cloud of clouds.yaml, and a region in the shell", files: oneCloud(inAuth, "region_name: RegionOne"), env: env("OS_REGION_NAME", "RegionTwo"), shape: manyEndpoints},
	{name: "two clouds and none named", files: map[string]string{"clouds.yaml": kollaClouds}, refused: "OS_CLOUD"},
	{name: "OS_CLOUD that is empty", env: env("OS_CLOUD", ""), files: oneCloud(inAuth)},
	{name: "OS_CLOUD that is unknown", env: env("OS_CLOUD", "yours"), files: oneCloud(inAuth), refused: "yours"},
	{name: "OS_* beside a clouds.yaml", env: openrc("OS_PROJECT_NAME", "shell"), files: oneCloud(inAuth)},
	{name: "OS_CLOUD=envvars", env: openrc("OS_CLOUD", "envvars"), files: oneCloud("auth: {}")},
	{name: "OS_CLOUD_NAME is the name of OS_*", env: openrc("OS_CLOUD_NAME", "shell", "OS_CLOUD", "shell"), files: oneCloud("auth: {}")},
	{name: "OS_CLOUD_NAME with the name of a cloud of the file", env: openrc("OS_CLOUD_NAME", "mine", "OS_CLOUD", "mine"), files: oneCloud(inAuth), ours: sameName, want: reached{Login: "POST @HTTP/identity/v3/auth/tokens", Body: account, Lookup: "GET @HTTP/compute/v2.1/servers/" + web}},
	{name: "a cloud named envvars", cloud: "envvars", files: map[string]string{"clouds.yaml": cloudNamed("envvars", inAuth)}, ours: sameName, want: reached{Login: "POST @HTTP/identity/v3/auth/tokens", Body: account, Lookup: "GET @HTTP/compute/v2.1/servers/" + web}},
	{name: "no credentials", refused: "no credentials"},

	// Regions.
	{name: "regions: the first of the list", cloud: "mine", files: oneCloud(inAuth, "regions: [RegionTwo, RegionOne]"), shape: manyEndpoints},
	{
		name: "regions: values of the region", cloud: "mine", shape: manyEndpoints,
		files: oneCloud("auth: {username: authenticator, password: correct-horse, project_name: service, "+inDomains+"}", `regions:
- name: RegionTwo
  values:
    interface: internal
    auth: {auth_url: "@AUTH"}
- RegionOne`),
	},
	{
		name: "regions: values win over the cloud", cloud: "mine", shape: manyEndpoints,
		files: oneCloud(inAuth, "interface: public", `regions: [{name: RegionTwo, values: {interface: admin, auth: {project_name: elsewhere}}}]`),
	},
	{name: "regions: an entry with only a name", cloud: "mine", files: oneCloud(inAuth, "regions: [{name: RegionTwo}]"), shape: manyEndpoints},
	{name: "regions: an entry without a name", cloud: "mine", files: oneCloud(inAuth, "regions: [{values: {interface: admin}}]"), shape: manyEndpoints, refused: "name"},
	{name: "regions: an entry with an unknown key", cloud: "mine", files: oneCloud(inAuth, "regions: [{name: RegionTwo, interface: admin}]"), shape: manyEndpoints, refused: "interface"},
	{name: "regions: an empty list", cloud: "mine", files: oneCloud(inAuth, "regions: []"), shape: manyEndpoints},
	{name: "regions: beside region_name", cloud: "mine", files: oneCloud(inAuth, "region_name: RegionOne", "regions: [RegionTwo]"), shape: manyEndpoints},
	{name: "region_name: a list", cloud: "mine", files: oneCloud(inAuth, "region_name: [RegionTwo, RegionOne]"), shape: manyEndpoints},
	{name: "region_name: a list with commas", cloud: "mine", files: oneCloud(inAuth, `region_name: RegionTwo,RegionOne`), shape: manyEndpoints},
	{name: "region_name: a list with commas in the shell", env: openrc("OS_REGION_NAME", "RegionTwo,RegionOne"), shape: manyEndpoints},
	{name: "region-name: with a dash", cloud: "mine", files: oneCloud(inAuth, "region-name: RegionTwo"), shape: manyEndpoints},
	{name: "region_name: empty", cloud: "mine", files: oneCloud(inAuth, "region_name: ''"), shape: manyEndpoints},
	{name: "region_name: that the catalog does not have", cloud: "mine", files: oneCloud(inAuth, "region_name: RegionNine"), shape: manyEndpoints, refused: "RegionNine"},
	{name: "region_name: in another case", cloud: "mine", files: oneCloud(inAuth, "region_name: regionone"), shape: manyEndpoints, refused: "regionone"},
	{name: "region_name: a number", cloud: "mine", files: oneCloud(inAuth, "region_name: 7"), shape: endpoints("8 public @HTTP/compute/v2.1/8", "7 public @HTTP/compute/v2.1")},

	// Interfaces.
	{name: "interface: internal", cloud: "mine", files: oneCloud(inAuth, "interface: internal"), shape: manyEndpoints},
	{name: "interface: admin", cloud: "mine", files: oneCloud(inAuth, "interface: admin"), shape: manyEndpoints},
	{name: "interface: internalURL", cloud: "mine", files: oneCloud(inAuth, "interface: internalURL"), shape: manyEndpoints},
	{name: "endpoint_type: internalURL", cloud: "mine", files: oneCloud(inAuth, "endpoint_type: internalURL"), shape: manyEndpoints},
	{name: "endpoint-type: with a dash", cloud: "mine", files: oneCloud(inAuth, "endpoint-type: internalURL"), shape: manyEndpoints},
	{name: "interface: before endpoint_type", cloud: "mine", files: oneCloud(inAuth, "interface: internal", "endpoint_type: admin"), shape: manyEndpoints},
	{name: "endpoint_type: before interface", cloud: "mine", files: oneCloud(inAuth, "endpoint_type: admin", "interface: internal"), shape: manyEndpoints},
	{name: "interface: a list", cloud: "mine", files: oneCloud(inAuth, "interface: [admin, public]"), shape: endpoints("RegionOne internal @HTTP/compute/v2.1/internal", "RegionOne public @HTTP/compute/v2.1")},
	{name: "interface: a list, and the first is there", cloud: "mine", files: oneCloud(inAuth, "interface: [internal, public]"), shape: manyEndpoints},
	{name: "interface: that the catalog does not have", cloud: "mine", files: oneCloud(inAuth, "interface: admin"), refused: "admin"},
	{name: "OS_INTERFACE and OS_ENDPOINT_TYPE that differ", env: openrc("OS_INTERFACE", "internal", "OS_ENDPOINT_TYPE", "adminURL"), shape: manyEndpoints},
	{name: "the order of the catalog does not matter", cloud: "mine", files: oneCloud(inAuth), shape: endpoints("RegionTwo internal http://127.0.0.1:1/", "RegionOne public @HTTP/compute/v2.1")},

	// What is said of Nova alone.
	{name: "compute_endpoint_override", cloud: "mine", files: oneCloud(inAuth, "compute_endpoint_override: @HTTP/compute/v2.1"), shape: endpoints("RegionOne public http://127.0.0.1:1/v2.1")},
	{name: "compute_endpoint_override without a version", cloud: "mine", files: oneCloud(inAuth, "compute_endpoint_override: @HTTP/compute"), shape: endpoints("RegionOne public http://127.0.0.1:1/v2.1")},
	{name: "compute_endpoint_override with a slash", cloud: "mine", files: oneCloud(inAuth, "compute_endpoint_override: @HTTP/compute/v2.1/"), shape: endpoints("RegionOne public http://127.0.0.1:1/v2.1")},
	{name: "compute-endpoint-override with dashes", cloud: "mine", files: oneCloud(inAuth, "compute-endpoint-override: @HTTP/compute/v2.1"), shape: endpoints("RegionOne public http://127.0.0.1:1/v2.1")},
	{name: "compute_endpoint_override on another host with TLS", cloud: "mine", files: oneCloud(inAuth, "compute_endpoint_override: @HTTPS/compute/v2.1", "cacert: ca.pem"), shape: endpoints("RegionOne public http://127.0.0.1:1/v2.1")},
	{name: "compute_endpoint", cloud: "mine", files: oneCloud(inAuth, "compute_endpoint: @HTTP/compute/v2.1"), shape: endpoints("RegionOne public http://127.0.0.1:1/v2.1")},
	{name: "OS_COMPUTE_ENDPOINT_OVERRIDE", env: openrc("OS_COMPUTE_ENDPOINT_OVERRIDE", "@HTTP/compute/v2.1"), shape: endpoints("RegionOne public http://127.0.0.1:1/v2.1")},
	{name: "compute_endpoint_override and compute_api_version", cloud: "mine", files: oneCloud(inAuth, "compute_api_version: '2.1'", "compute_endpoint_override: @HTTP/compute/v2.1"), shape: endpoints("RegionOne public http://127.0.0.1:1/v2.1")},
	{name: "compute_endpoint_override with {region_name}", cloud: "mine", files: oneCloud(inAuth, "region_name: RegionOne", "compute_endpoint_override: '@HTTP/{region_name}/v2.1'"), shape: shape{nova: []string{"/RegionOne"}}},
	{name: "compute_region_name", cloud: "mine", files: oneCloud(inAuth, "region_name: RegionOne", "compute_region_name: RegionTwo"), shape: manyEndpoints},
	{name: "compute_interface", cloud: "mine", files: oneCloud(inAuth, "interface: public", "compute_interface: internal"), shape: manyEndpoints},
	{name: "compute_endpoint_type", cloud: "mine", files: oneCloud(inAuth, "interface: public", "compute_endpoint_type: internalURL"), shape: manyEndpoints},
	{name: "compute_service_type", cloud: "mine", files: oneCloud(inAuth, "compute_service_type: compute_v21"), shape: endpoints("RegionOne public @HTTP/compute/v2.1 compute_v21")},
	{name: "compute_service_name", cloud: "mine", files: oneCloud(inAuth, "compute_service_name: nova")},
	{name: "compute_service_name that the catalog does not have", cloud: "mine", files: oneCloud(inAuth, "compute_service_name: cells"), refused: "cells"},
	{name: "compute_api_version: 2", cloud: "mine", files: oneCloud(inAuth, "compute_api_version: 2")},
	{name: "compute_api_version: 2.79", cloud: "mine", files: oneCloud(inAuth, "compute_api_version: '2.79'")},
	{name: "compute_default_microversion", cloud: "mine", files: oneCloud(inAuth, "compute_default_microversion: '2.79'")},
	{name: "identity_endpoint_override does not move the login", cloud: "mine", files: oneCloud(inAuth, "identity_endpoint_override: http://127.0.0.1:1/v3")},
	{name: "identity_interface and identity_api_version", cloud: "mine", files: oneCloud(inAuth, "identity_interface: admin", "identity_api_version: 3")},
	{name: "identity_api_version: 2.0 does not move the login", cloud: "mine", files: oneCloud(inAuth, "identity_api_version: '2.0'")},

	{
		name: "compute_service_name chooses one of two", cloud: "mine", files: oneCloud(inAuth, "compute_service_name: nova"),
		shape: endpoints("RegionOne public http://127.0.0.1:1/v2.1 compute nova-cells", "RegionOne public @HTTP/compute/v2.1"),
	},
	{
		name: "DevStack's compute_legacy beside compute", cloud: "mine", files: oneCloud(inAuth),
		shape: endpoints("RegionOne public @HTTP/compute/v2/@PROJECT compute_legacy nova_legacy", "RegionOne public @HTTP/compute/v2.1"),
	},

	// What the program's own configuration asks for.
	{name: "a requested region", cloud: "mine", region: "RegionTwo", files: oneCloud(inAuth, "regions: [RegionOne, RegionTwo]"), shape: manyEndpoints},
	{
		name: "a requested region with values", cloud: "mine", region: "RegionTwo", shape: manyEndpoints,
		files: oneCloud(inAuth, "regions: [RegionOne, {name: RegionTwo, values: {interface: admin}}]"),
	},
	{name: "a requested region that is not in the list", cloud: "mine", region: "RegionThree", files: oneCloud(inAuth, "regions: [RegionOne, RegionTwo]"), shape: manyEndpoints, refused: "RegionThree"},
	{
		name: "a requested region, of a cloud in another region", cloud: "mine", region: "RegionTwo", files: oneCloud(inAuth, "region_name: RegionOne"), shape: manyEndpoints,
		ours: "openstack.region of the configuration wins; the SDK knows no other region of the cloud", want: reached{
			Login: "POST @HTTP/identity/v3/auth/tokens", Body: account, Lookup: "GET @HTTP/two/public/v2.1/servers/" + web,
		},
	},
	{name: "a requested region, of a cloud without a region", cloud: "mine", region: "RegionTwo", files: oneCloud(inAuth), shape: manyEndpoints},
	{name: "a requested interface", cloud: "mine", face: "internal", files: oneCloud(inAuth, "interface: public"), shape: manyEndpoints},
	{name: "a requested interface, of a region with values", cloud: "mine", face: "internal", files: oneCloud(inAuth, "regions: [{name: RegionTwo, values: {interface: admin}}]"), shape: manyEndpoints},
	{name: "a region and an interface that are asked for beside OS_*", env: openrc("OS_INTERFACE", "public"), region: "RegionTwo", face: "admin", shape: manyEndpoints},
	{name: "a requested interface, and compute_interface", cloud: "mine", face: "admin", files: oneCloud(inAuth, "compute_interface: internal"), shape: manyEndpoints,
		ours: "openstack.interface of the configuration is for Nova, the only service that is called", want: reached{Lookup: "GET @HTTP/one/admin/v2.1/servers/" + web}},

	// The account.
	{name: "keys beside auth", cloud: "mine", files: oneCloud(`{` + credentials + `project_name: service, ` + inDomains + `}`)},
	{name: "keys beside auth and in it: the project", cloud: "mine", files: oneCloud(inAuth, "project_name: beside", "project_domain_name: Beside")},
	{name: "keys beside auth and in it: the user", cloud: "mine", files: oneCloud(inAuth, "username: beside", "password: wrong", "auth_url: 'http://127.0.0.1:1/'")},
	{name: "keys beside auth and in it: the user's domain", cloud: "mine", files: oneCloud(inAuth, "user_domain_name: Beside")},
	{name: "tenant_name", cloud: "mine", files: oneCloud(`auth: {` + credentials + `tenant_name: service, ` + inDomains + `}`)},
	{name: "tenant_id", cloud: "mine", files: oneCloud(`auth: {` + credentials + `tenant_id: service-id, ` + inDomains + `}`)},
	{name: "tenant_name beside project_name", cloud: "mine", files: oneCloud(`auth: {` + credentials + `tenant_name: tenant, project_name: service, ` + inDomains + `}`)},
	{name: "project_id beside project_name", cloud: "mine", files: oneCloud(`auth: {` + credentials + `project_id: service-id, project_name: service, ` + inDomains + `}`)},
	{
		name: "dashes for underscores", cloud: "mine",
		files: oneCloud(`auth: {auth-url: "@AUTH", username: authenticator, password: correct-horse, project-name: service, user-domain-name: Default, project-domain-name: Default}`),
	},
	{name: "user_name", cloud: "mine", files: oneCloud(`auth: {auth_url: "@AUTH", user_name: authenticator, password: correct-horse, project_name: service, ` + inDomains + `}`)},
	{name: "user-name with a dash", cloud: "mine", files: oneCloud(`auth: {auth_url: "@AUTH", user-name: authenticator, password: correct-horse, project_name: service, ` + inDomains + `}`)},
	{name: "user_id", cloud: "mine", files: oneCloud(`auth: {auth_url: "@AUTH", user_id: authenticator-id, password: correct-horse, project_id: service-id}`)},
	{name: "user_id beside username and its domain", cloud: "mine", files: oneCloud(`auth: {` + credentials + `user_id: authenticator-id, project_name: service, ` + inDomains + `}`)},
	{name: "OS_USERID is not OS_USER_ID", env: openrc("OS_USERID", "another-id")},
	{name: "domains by ID", cloud: "mine", files: oneCloud(`auth: {` + credentials + `project_name: service, user_domain_id: users, project_domain_id: projects}`)},
	{name: "domains by ID and by name", cloud: "mine", files: oneCloud(`auth: {` + credentials + `project_name: service, user_domain_id: users, project_domain_id: projects, ` + inDomains + `}`)},
	{name: "domain_name for both", cloud: "mine", files: oneCloud(`auth: {` + credentials + `project_name: service, domain_name: Abroad}`)},
	{name: "domain_id for both", cloud: "mine", files: oneCloud(`auth: {` + credentials + `project_name: service, domain_id: abroad}`)},
	{name: "domain_id for the missing domain", cloud: "mine", files: oneCloud(`auth: {` + credentials + `project_name: service, domain_id: abroad, user_domain_id: users}`)},
	{name: "domain_name beside auth, with a project", cloud: "mine", files: oneCloud(`auth: {`+credentials+`project_name: service, user_domain_name: Default, project_domain_name: Default}`, "domain_name: Abroad")},
	{name: "default_domain_id", cloud: "mine", files: oneCloud(`auth: {` + credentials + `project_name: service, default_domain_id: abroad}`)},
	{name: "default_domain_name", cloud: "mine", files: oneCloud(`auth: {` + credentials + `project_name: service, default_domain_name: Abroad}`)},
	{name: "default_domain_id beside domains by name", cloud: "mine", files: oneCloud(`auth: {` + credentials + `project_name: service, default_domain_id: abroad, ` + inDomains + `}`)},
	{name: "OS_DEFAULT_DOMAIN_NAME", env: openrc("OS_USER_DOMAIN_NAME", "-", "OS_PROJECT_DOMAIN_NAME", "-", "OS_DEFAULT_DOMAIN_NAME", "Abroad")},
	{
		name: "no domain", cloud: "mine", files: oneCloud(`auth: {` + credentials + `project_name: service}`),
		ours: noDomain, want: reached{Body: `{"auth":{` + userInDefault + `,` + projectInDefault + `}}`},
	},
	{
		name: "no domain in the variables", env: openrc("OS_USER_DOMAIN_NAME", "-", "OS_PROJECT_DOMAIN_NAME", "-"),
		ours: noDomain, want: reached{Body: `{"auth":{` + userInDefault + `,` + projectInDefault + `}}`},
	},
	{
		name: "no domain of the project", cloud: "mine", files: oneCloud(`auth: {` + credentials + `project_name: service, user_domain_id: default}`),
		ours: noDomain, want: reached{Body: `{"auth":{` + userInDefault + `,` + projectInDefault + `}}`},
	},
	{name: "no domain, and the project by ID", cloud: "mine", files: oneCloud(`auth: {` + credentials + `project_id: service-id}`), ours: noDomain, want: reached{Body: `{"auth":{` + userInDefault + `,"scope":{"project":{"id":"service-id"}}}}`}},
	{name: "empty variables beside others", env: openrc("OS_USER_DOMAIN_ID", "", "OS_PROJECT_DOMAIN_ID", "", "OS_USER_ID", "", "OS_DOMAIN_NAME", "", "OS_SYSTEM_SCOPE", "", "OS_TRUST_ID", "", "OS_TENANT_NAME", "")},
	{name: "OS_TENANT_NAME that is empty beside OS_PROJECT_NAME", env: openrc("OS_TENANT_NAME", "")},
	{
		name: "OS_TENANT_NAME beside an OS_PROJECT_NAME that is empty", env: openrc("OS_PROJECT_NAME", "", "OS_TENANT_NAME", "service"),
		ours: "an empty variable counts as absent; the SDK logs in without a project", want: reached{Login: "POST @HTTP/identity/v3/auth/tokens", Body: account, Lookup: "GET @HTTP/compute/v2.1/servers/" + web},
	},
	{name: "a key with a dash and with an underscore", cloud: "mine", files: oneCloud(`auth: {` + credentials + `project_name: service, user-domain-name: Dash, ` + inDomains + `}`)},
	{name: "no password", cloud: "mine", files: oneCloud(`auth: {auth_url: "@AUTH", username: authenticator, project_name: service, ` + inDomains + `}`), refused: "password"},
	{name: "an empty password", cloud: "mine", files: oneCloud(`auth: {auth_url: "@AUTH", username: authenticator, password: "", project_name: service, ` + inDomains + `}`), refused: "password"},
	{name: "no user", cloud: "mine", files: oneCloud(`auth: {auth_url: "@AUTH", password: correct-horse, project_name: service, ` + inDomains + `}`), ours: "a login without a user is refused; the SDK sends it", refused: "user"},
	{name: "no auth_url", cloud: "mine", files: oneCloud(`auth: {username: authenticator, password: correct-horse, project_name: service, ` + inDomains + `}`), refused: "auth_url"},

	// The scope.
	{name: "no scope", cloud: "mine", files: oneCloud(unscoped), refused: "scope"},
	{name: "system scope", cloud: "mine", files: oneCloud(`auth: {` + credentials + `user_domain_name: Default, system_scope: all}`)},
	{name: "system scope in the shell", env: openrc("OS_PROJECT_NAME", "-", "OS_PROJECT_DOMAIN_NAME", "-", "OS_SYSTEM_SCOPE", "all")},
	{name: "system scope beside a project", cloud: "mine", files: oneCloud(`auth: {` + credentials + `project_name: service, system_scope: all, ` + inDomains + `}`), refused: "scope"},
	{name: "domain scope by ID", cloud: "mine", files: oneCloud(`auth: {` + credentials + `user_domain_name: Default, domain_id: default}`)},
	{name: "domain scope by name", cloud: "mine", files: oneCloud(`auth: {` + credentials + `user_domain_name: Default, domain_name: Default}`)},
	{name: "domain scope, said beside auth", cloud: "mine", files: oneCloud(unscoped, "domain_name: Default")},
	{name: "domain scope in the shell", env: openrc("OS_PROJECT_NAME", "-", "OS_PROJECT_DOMAIN_NAME", "-", "OS_DOMAIN_ID", "default")},
	{name: "trust scope", cloud: "mine", files: oneCloud(`auth: {` + credentials + `user_domain_name: Default, trust_id: trust}`)},
	{name: "trust scope in the shell", env: openrc("OS_PROJECT_NAME", "-", "OS_PROJECT_DOMAIN_NAME", "-", "OS_TRUST_ID", "trust")},
	{name: "trust scope beside a project", cloud: "mine", files: oneCloud(`auth: {` + credentials + `project_name: service, trust_id: trust, ` + inDomains + `}`), refused: "scope"},

	// Kinds of logins.
	{name: "auth_type: password", cloud: "mine", files: oneCloud("auth_type: password", inAuth)},
	{name: "auth_type: v3password", cloud: "mine", files: oneCloud("auth_type: v3password", inAuth)},
	{name: "auth_plugin: v3password", cloud: "mine", files: oneCloud("auth_plugin: v3password", inAuth)},
	{name: "auth_plugin: of another kind beside auth_type", cloud: "mine", files: oneCloud("auth_plugin: v3token", "auth_type: password", inAuth)},
	{name: "auth_plugin: of another kind", cloud: "mine", files: oneCloud("auth_plugin: v3token", inAuth), ours: "auth_plugin is the old name of auth_type; the SDK ignores it and uses the default, password", refused: "v3token"},
	{name: "auth_type: that does not exist", cloud: "mine", files: oneCloud("auth_type: v3pasword", inAuth), refused: "v3pasword"},
	{name: "auth_type: v2password", cloud: "mine", files: oneCloud("auth_type: v2password", `auth: {`+credentials+`tenant_name: service}`), refused: "v2password"},
	{
		name: "auth_type: v3oidcpassword", cloud: "mine",
		files:   oneCloud("auth_type: v3oidcpassword", "identity_provider: idp", "protocol: openid", "client_id: id", "client_secret: none", "discovery_endpoint: http://127.0.0.1:1/", inAuth),
		refused: "v3oidcpassword",
	},
	{name: "auth_type: token", cloud: "mine", files: oneCloud("auth_type: token", `auth: {auth_url: "@AUTH", token: gAAAAAtoken, project_name: service, project_domain_name: Default}`), ours: "a token cannot be renewed", refused: "token"},
	{name: "OS_AUTH_TYPE=v3token", env: openrc("OS_AUTH_TYPE", "v3token", "OS_TOKEN", "gAAAAAtoken", "OS_USERNAME", "-", "OS_PASSWORD", "-", "OS_USER_DOMAIN_NAME", "-"), ours: "a token cannot be renewed", refused: "v3token"},
	{name: "OS_AUTH_TYPE=token_endpoint", env: env("OS_AUTH_TYPE", "token_endpoint", "OS_ENDPOINT", "@HTTP/compute/v2.1", "OS_TOKEN", "gAAAAAfake"), ours: "a token cannot be renewed", refused: "no credentials"},
	{name: "auth_type: v3totp", cloud: "mine", files: oneCloud("auth_type: v3totp", `auth: {auth_url: "@AUTH", username: authenticator, passcode: "123456", project_name: service, `+inDomains+`}`), ours: "a passcode cannot be used twice", refused: "v3totp"},
	{name: "auth_type: none", cloud: "mine", files: oneCloud("auth_type: none", "auth: {endpoint: '@HTTP/compute/v2.1'}"), refused: "none"},
	{name: "auth_type: null", cloud: "mine", files: oneCloud("auth_type: null", inAuth), ours: null, want: reached{Login: "POST @HTTP/identity/v3/auth/tokens", Body: account, Lookup: "GET @HTTP/compute/v2.1/servers/" + web}},
	{name: "application credential by ID", cloud: "mine", files: oneCloud("auth_type: v3applicationcredential", `auth: {auth_url: "@AUTH", `+byAppCred+`}`)},
	{
		name: "application credential by name and user", cloud: "mine",
		files: oneCloud("auth_type: v3applicationcredential", `auth: {auth_url: "@AUTH", application_credential_name: key, application_credential_secret: battery-staple, username: authenticator, user_domain_name: Default}`),
	},
	{
		name: "application credential by name and user ID", cloud: "mine",
		files: oneCloud("auth_type: v3applicationcredential", `auth: {auth_url: "@AUTH", application_credential_name: key, application_credential_secret: battery-staple, user_id: authenticator-id}`),
	},
	{
		name: "application credential by ID and name", cloud: "mine",
		files: oneCloud("auth_type: v3applicationcredential", `auth: {auth_url: "@AUTH", `+byAppCred+`, application_credential_name: key, username: authenticator, user_domain_name: Default}`),
	},
	{name: "application credential beside auth", cloud: "mine", files: oneCloud(`{auth_type: v3applicationcredential, auth_url: "@AUTH", ` + byAppCred + `}`)},
	{
		name: "application credential with a project", cloud: "mine", files: oneCloud("auth_type: v3applicationcredential", `auth: {auth_url: "@AUTH", `+byAppCred+`, project_name: service, project_domain_name: Default}`),
		ours: "Keystone refuses a scope with an application credential",
		want: reached{Body: `{"auth":{"identity":` + byCredential + `}}`},
	},
	{
		name: "application credential without auth_type", cloud: "mine", files: oneCloud(`auth: {auth_url: "@AUTH", ` + byAppCred + `}`),
		ours: "an application credential is used; the SDK tries a login by password",
		want: reached{
			Login: "POST @HTTP/identity/v3/auth/tokens", Lookup: "GET @HTTP/compute/v2.1/servers/" + web,
			Body: `{"auth":{"identity":` + byCredential + `}}`,
		},
	},
	{
		name: "application credential in a shell with another openrc", env: openrc("OS_AUTH_TYPE", "v3applicationcredential", "OS_APPLICATION_CREDENTIAL_ID", "credential-id", "OS_APPLICATION_CREDENTIAL_SECRET", secret),
		ours: "Keystone refuses a scope with an application credential",
		want: reached{Body: `{"auth":{"identity":` + byCredential + `}}`},
	},
	{name: "application credential without secret", cloud: "mine", files: oneCloud("auth_type: v3applicationcredential", `auth: {auth_url: "@AUTH", application_credential_id: credential-id}`), refused: "secret"},

	// TLS.
	{name: "cacert", cloud: "mine", files: oneCloud(inAuthTLS, "cacert: @HERE/ca.pem")},
	{name: "cacert relative to the working directory", cloud: "mine", files: oneCloud(inAuthTLS, "cacert: ca.pem")},
	{name: "cacert with ~", cloud: "mine", files: oneCloud(inAuthTLS, "cacert: ~/ca.pem")},
	{name: "cacert of another authority", cloud: "mine", files: oneCloud(inAuthTLS, "cacert: another.pem"), refused: "certificate"},
	{name: "cacert that does not exist", cloud: "mine", files: oneCloud(inAuthTLS, "cacert: gone.pem"), refused: "cacert"},
	{name: "no cacert", cloud: "mine", files: oneCloud(inAuthTLS), refused: "certificate"},
	{name: "OS_CACERT", env: openrc("OS_AUTH_URL", "@HTTPS/identity/v3", "OS_CACERT", "ca.pem")},
	{name: "cacert of a named cloud wins over OS_CACERT", cloud: "mine", env: env("OS_CACERT", "@HERE/another.pem"), files: oneCloud(inAuthTLS, "cacert: ca.pem")},
	{name: "OS_CACERT is not a named cloud's", cloud: "mine", env: env("OS_CACERT", "@HERE/ca.pem"), files: oneCloud(inAuthTLS), refused: "certificate"},
	{name: "verify: false", cloud: "mine", files: oneCloud(inAuthTLS, "verify: false")},
	{name: "verify: no", cloud: "mine", files: oneCloud(inAuthTLS, "verify: no")},
	{name: "verify: 'false' is a text", cloud: "mine", files: oneCloud(inAuthTLS, "verify: 'false'"), refused: "verify"},
	{name: "verify: 'false' is a text, and cacert is used", cloud: "mine", files: oneCloud(inAuthTLS, "verify: 'false'", "cacert: ca.pem")},
	{name: "verify: the path of an authority", cloud: "mine", files: oneCloud(inAuthTLS, "verify: ./ca.pem")},
	{name: "verify: false beside cacert", cloud: "mine", files: oneCloud(inAuthTLS, "verify: false", "cacert: another.pem")},
	{name: "verify: true", cloud: "mine", files: oneCloud(inAuthTLS, "verify: true", "cacert: ca.pem")},
	{name: "insecure: true", cloud: "mine", files: oneCloud(inAuthTLS, "insecure: true")},
	{name: "insecure: 'True'", cloud: "mine", files: oneCloud(inAuthTLS, "insecure: 'True'")},
	{name: "insecure: 'yes' is not true", cloud: "mine", files: oneCloud(inAuthTLS, "insecure: 'yes'"), refused: "certificate"},
	{name: "insecure: false", cloud: "mine", files: oneCloud(inAuthTLS, "insecure: false"), refused: "certificate"},
	{name: "insecure: true beside verify: true", cloud: "mine", files: oneCloud(inAuthTLS, "insecure: true", "verify: true")},
	{name: "OS_INSECURE=true", env: openrc("OS_AUTH_URL", "@HTTPS/identity/v3", "OS_INSECURE", "true")},
	{name: "OS_INSECURE=1 is not true", env: openrc("OS_AUTH_URL", "@HTTPS/identity/v3", "OS_INSECURE", "1"), refused: "certificate"},
	{name: "OS_VERIFY=False is a text", env: openrc("OS_AUTH_URL", "@HTTPS/identity/v3", "OS_VERIFY", "False"), refused: "VERIFY"},
	{name: "cert and key", cloud: "mine", files: oneCloud(inAuthTLS, "cacert: ca.pem", "cert: ~/client.pem", "key: client.key"), shape: shape{clientCert: true}},
	{name: "cert with its key in one file", cloud: "mine", files: oneCloud(inAuthTLS, "cacert: ca.pem", "cert: both.pem"), shape: shape{clientCert: true}},
	{name: "OS_CERT and OS_KEY", env: openrc("OS_AUTH_URL", "@HTTPS/identity/v3", "OS_CACERT", "ca.pem", "OS_CERT", "client.pem", "OS_KEY", "client.key"), shape: shape{clientCert: true}},
	{name: "no cert where the cloud requires one", cloud: "mine", files: oneCloud(inAuthTLS, "cacert: ca.pem"), shape: shape{clientCert: true}, refused: "certificate"},

	// YAML.
	{
		name: "anchors and merge keys", cloud: "mine",
		files: map[string]string{"clouds.yaml": `
base: &base
  region_name: RegionTwo
  interface: internal
account: &account {username: authenticator, password: correct-horse, user_domain_name: Default, project_domain_name: Default}
clouds:
  mine:
    <<: *base
    interface: admin
    auth:
      <<: *account
      auth_url: @AUTH
      project_name: service
`},
		shape: manyEndpoints,
	},
	{
		name: "a list of merge keys", cloud: "mine",
		files: map[string]string{"clouds.yaml": `
one: &one {region_name: RegionTwo, interface: internal}
two: &two {region_name: RegionOne, interface: admin}
clouds:
  mine:
    <<: [*one, *two]
    ` + inAuth + `
`},
		shape: manyEndpoints,
		ours:  "the first of the mappings wins, as in YAML's specification; this PyYAML uses the last",
		want:  reached{Lookup: "GET @HTTP/two/internal/v2.1/servers/" + web},
	},
	{name: "a key twice", cloud: "mine", files: oneCloud(inAuth, "region_name: RegionOne", "region_name: RegionTwo"), shape: manyEndpoints},
	{name: "null values", cloud: "mine", files: oneCloud(`auth: {`+credentials+`project_name: service, project_id: , user_id: ~, `+inDomains+`}`, "region_name: RegionOne", "cacert: null", "interface: public"), ours: null + "; the SDK logs in to a project with the ID None", want: reached{Body: account}},
	{name: "a null region", cloud: "mine", files: oneCloud(inAuth, "region_name:"), ours: null, want: reached{Login: "POST @HTTP/identity/v3/auth/tokens", Body: account, Lookup: "GET @HTTP/compute/v2.1/servers/" + web}},
	{name: "empty values", cloud: "mine", files: oneCloud(`auth: {`+credentials+`project_name: service, project_id: "", user_id: "", domain_id: "", `+inDomains+`}`, `cacert: ""`, `key: ""`)},
	{name: "a null cloud", cloud: "mine", files: map[string]string{"clouds.yaml": "clouds:\n  mine:\n"}, refused: "mine"},
	{name: "null clouds", cloud: "mine", files: map[string]string{"clouds.yaml": "clouds:\n"}, refused: "mine"},
	{name: "a list of clouds", cloud: "mine", files: map[string]string{"clouds.yaml": "clouds: [{name: mine}]\n"}, refused: "clouds"},
	{name: "a null auth", cloud: "mine", files: oneCloud("auth:", "region_name: RegionOne"), refused: "auth"},
	{name: "a password of digits", cloud: "mine", files: oneCloud(`auth: {auth_url: "@AUTH", username: authenticator, password: 12345678, project_name: service, ` + inDomains + `}`)},
	{
		name: "a password that PyYAML reads as octal", cloud: "mine", files: oneCloud(`auth: {auth_url: "@AUTH", username: authenticator, password: 0123, project_name: service, ` + inDomains + `}`),
		ours: "a password is sent as it is written",
		want: reached{Body: `{"auth":{"identity":` + strings.Replace(byDefaultName, password, "0123", 1) + `,"scope":` + inDefaultName + `}}`},
	},
	{
		name: "a password that PyYAML reads as a boolean", cloud: "mine", files: oneCloud(`auth: {auth_url: "@AUTH", username: authenticator, password: yes, project_name: service, ` + inDomains + `}`),
		ours: "a password is sent as it is written",
		want: reached{Body: `{"auth":{"identity":` + strings.Replace(byDefaultName, password, "yes", 1) + `,"scope":` + inDefaultName + `}}`},
	},
	{
		name: "a password that PyYAML reads as a fraction", cloud: "mine", files: oneCloud(`auth: {auth_url: "@AUTH", username: authenticator, password: 1.50, project_name: service, ` + inDomains + `}`),
		ours: "a password is sent as it is written",
		want: reached{Body: `{"auth":{"identity":` + strings.Replace(byDefaultName, password, "1.50", 1) + `,"scope":` + inDefaultName + `}}`},
	},
	{name: "a project of digits", cloud: "mine", files: oneCloud(`auth: {` + credentials + `project_id: 11111111111111111111111111111111, user_domain_name: Default}`)},
	{name: "a password with braces", cloud: "mine", files: oneCloud(`auth: {auth_url: "@AUTH", username: authenticator, password: "a{b}c{}", project_name: service, ` + inDomains + `}`)},
	{name: "a password with spaces, quotes and more", cloud: "mine", files: oneCloud(`auth: {auth_url: "@AUTH", username: authenticator, password: " p%a$s#s'w\"ö\\ ", project_name: service, ` + inDomains + `}`)},
	{name: "a tab where YAML allows none", cloud: "mine", files: map[string]string{"clouds.yaml": "clouds:\n\tmine: {}\n"}, refused: "mine"},
	{name: "keys of other services", cloud: "mine", files: oneCloud(inAuth, "networks: [{name: public, routes_externally: true}]", "image_format: raw", "force_ipv4: true", "floating_ip_source: neutron", "disable_vendor_agent: {}", "dns_api_version: '2'")},

	// Keystone's URL.
	{name: "auth_url without a version", env: openrc("OS_AUTH_URL", "@HTTP/identity")},
	{name: "auth_url without a version, with a slash", env: openrc("OS_AUTH_URL", "@HTTP/identity/")},
	{name: "auth_url with a version and a slash", env: openrc("OS_AUTH_URL", "@HTTP/identity/v3/")},
	{name: "auth_url at the root", env: openrc("OS_AUTH_URL", "@HTTP"), shape: shape{keystone: "/", catalog: []string{"RegionOne public @HTTP/compute/v2.1"}}},
	{name: "auth_url at the root with a version", env: openrc("OS_AUTH_URL", "@HTTP/v3"), shape: shape{keystone: "/"}},
	{name: "auth_url below a long prefix", env: openrc("OS_AUTH_URL", "@HTTP/cloud/a/identity/v3"), shape: shape{keystone: "/cloud/a/identity"}},
	{name: "auth_url with v and a digit earlier in its path", env: openrc("OS_AUTH_URL", "@HTTP/dev1/v2x/identity/v3"), shape: shape{keystone: "/dev1/v2x/identity"}},
	{name: "auth_url with v and a digit earlier in its path, and no version", env: openrc("OS_AUTH_URL", "@HTTP/dev1/identity"), shape: shape{keystone: "/dev1/identity"}},
	{name: "auth_url of a Keystone without version documents", env: openrc("OS_AUTH_URL", "@HTTP/v3"), shape: shape{keystone: "/", unlinked: true}},
	{name: "auth_url with {region_name}", cloud: "mine", files: oneCloud(`auth: {auth_url: "@HTTP/{region_name}/v3", username: authenticator, password: correct-horse, project_name: service, `+inDomains+`}`, "region_name: RegionOne"), shape: shape{keystone: "/RegionOne"}},
	{name: "auth_url with TLS, and links without", env: openrc("OS_AUTH_URL", "@HTTPS/identity", "OS_CACERT", "ca.pem"), shape: shape{link: "@HTTP/identity/v3/"}},
	{name: "auth_url with TLS and a version, and links without", env: openrc("OS_AUTH_URL", "@HTTPS/identity/v3", "OS_CACERT", "ca.pem"), shape: shape{link: "@HTTP/identity/v3/"}},
	{name: "auth_url without TLS, and links with", env: openrc("OS_CACERT", "ca.pem"), shape: shape{link: "@HTTPS/identity/v3/"}},
	{name: "auth_url that redirects to TLS", env: openrc("OS_CACERT", "ca.pem"), shape: shape{redirect: true}, ours: "a redirect is not followed, because it could send a password to any host", refused: "redirect"},
	{name: "auth_url with links to a host that is not there", env: openrc("OS_AUTH_URL", "@HTTP/identity"), shape: shape{link: "http://127.0.0.1:1/identity/v3/"}},
	{name: "auth_url with a version, and links to a host that is not there", env: openrc(), shape: shape{link: "http://127.0.0.1:1/identity/v3/"}},
	{name: "auth_url below a prefix that the links do not have", env: openrc(), shape: shape{link: "http://127.0.0.1:1/v3/"}},
	{name: "auth_url below a prefix without a version, and links without the prefix", env: openrc("OS_AUTH_URL", "@HTTP/identity"), shape: shape{link: "http://127.0.0.1:1/v3/"}},
	{
		name: "auth_url of the v2.0 that Keystone had", env: openrc("OS_AUTH_URL", "@HTTP/identity/v2.0"),
		ours: "Keystone has only v3 since Queens, so the v3 beside it is used", want: reached{Login: "POST @HTTP/identity/v3/auth/tokens", Body: account, Lookup: "GET @HTTP/compute/v2.1/servers/" + web},
	},
	{name: "auth_url at the root, and links to a prefix on a host that is not there", env: openrc("OS_AUTH_URL", "@HTTP"), shape: shape{keystone: "/", link: "http://127.0.0.1:1/identity/v3/"}},
	{name: "auth_url at the root, and links that are relative", env: openrc("OS_AUTH_URL", "@HTTP"), shape: shape{keystone: "/", link: "v3/"}},
	{name: "auth_url below a prefix, and links that are relative", env: openrc("OS_AUTH_URL", "@HTTP/identity/"), shape: shape{link: "v3/"}},
	{name: "auth_url without a scheme", env: openrc("OS_AUTH_URL", "127.0.0.1/identity/v3"), refused: "auth_url"},
	{name: "auth_url of a closed port", env: openrc("OS_AUTH_URL", "http://127.0.0.1:1/v3"), refused: "127.0.0.1:1"},
	{name: "auth_url of another service", env: openrc("OS_AUTH_URL", "@HTTP/elsewhere/v3"), refused: "elsewhere"},

	// Nova's URL.
	{name: "Nova with a version", env: openrc(), shape: endpoints("RegionOne public @HTTP/compute/v2.1")},
	{name: "Nova with a version and a slash", env: openrc(), shape: endpoints("RegionOne public @HTTP/compute/v2.1/")},
	{name: "Nova with a version and the project", env: openrc(), shape: endpoints("RegionOne public @HTTP/compute/v2.1/@PROJECT")},
	{name: "Nova with a version, the project and a slash", env: openrc(), shape: endpoints("RegionOne public @HTTP/compute/v2.1/@PROJECT/")},
	{name: "Nova without a version", env: openrc(), shape: endpoints("RegionOne public @HTTP/compute")},
	{name: "Nova without a version, with a slash", env: openrc(), shape: endpoints("RegionOne public @HTTP/compute/")},
	{name: "Nova at the root", env: openrc(), shape: shape{nova: []string{"/"}, catalog: []string{"RegionOne public @HTTP"}}},
	{name: "Nova at the root with a version", env: openrc(), shape: shape{nova: []string{"/"}, catalog: []string{"RegionOne public @HTTP/v2.1"}}},
	{name: "Nova below a long prefix", env: openrc(), shape: shape{nova: []string{"/cloud/a/compute"}, catalog: []string{"RegionOne public @HTTP/cloud/a/compute/v2.1"}}},
	{name: "Nova with v and a digit earlier in its path", env: openrc(), shape: shape{nova: []string{"/dev1/v2x/compute"}, catalog: []string{"RegionOne public @HTTP/dev1/v2x/compute/v2.1"}}},
	{name: "Nova with v and a digit earlier in its path, and no version", env: openrc(), shape: shape{nova: []string{"/dev1/compute"}, catalog: []string{"RegionOne public @HTTP/dev1/compute"}}},
	{
		name: "Nova's legacy version with the project", env: openrc(), shape: endpoints("RegionOne public @HTTP/compute/v2/@PROJECT"),
		ours: "the legacy API has no microversions, which are needed", refused: "legacy",
	},
	{name: "Nova's legacy version", env: openrc(), shape: endpoints("RegionOne public @HTTP/compute/v2"), ours: "the legacy API has no microversions, which are needed", refused: "legacy"},
	{name: "Nova with TLS, Keystone without", env: openrc("OS_CACERT", "ca.pem"), shape: endpoints("RegionOne public @HTTPS/compute/v2.1")},
	{name: "Nova with TLS, and links without", env: openrc("OS_CACERT", "ca.pem"), shape: shape{novaLink: "@HTTP/compute", catalog: []string{"RegionOne public @HTTPS/compute/v2.1"}}},
	{name: "Nova with TLS and no version, and links without", env: openrc("OS_CACERT", "ca.pem"), shape: shape{novaLink: "@HTTP/compute", catalog: []string{"RegionOne public @HTTPS/compute"}}},
	{name: "Nova without a version, and links to a host that is not there", env: openrc(), shape: shape{novaLink: "http://127.0.0.1:1/compute", catalog: []string{"RegionOne public @HTTP/compute"}}},
	{name: "Nova below a prefix that the links do not have", env: openrc(), shape: shape{novaLink: "http://127.0.0.1:1", catalog: []string{"RegionOne public @HTTP/compute/v2.1"}}},
	{name: "Nova below a prefix without a version, and links without the prefix", env: openrc(), shape: shape{novaLink: "http://127.0.0.1:1", catalog: []string{"RegionOne public @HTTP/compute"}}},
	{name: "Nova at the root, and links to a prefix on a host that is not there", env: openrc(), shape: shape{nova: []string{"/"}, novaLink: "http://127.0.0.1:1/compute", catalog: []string{"RegionOne public @HTTP"}}},
	{
		name: "Nova without a version, with the project", env: openrc(), shape: endpoints("RegionOne public @HTTP/compute/@PROJECT"),
		ours: "Nova needs no project in its URL; the SDK adds it after the version", want: reached{Lookup: "GET @HTTP/compute/v2.1/servers/" + web},
	},
	{name: "Nova with TLS of another authority", env: openrc("OS_CACERT", "another.pem"), shape: endpoints("RegionOne public @HTTPS/compute/v2.1"), refused: "certificate"},
	{name: "Nova that is not in the catalog", env: openrc(), shape: endpoints("RegionOne public @HTTP/compute/v2.1 computes"), refused: "compute"},
	{name: "a catalog without endpoints of Nova", env: openrc(), shape: shape{catalog: []string{}}, refused: "compute"},
}

const kollaClouds = `
clouds:
  kolla-admin:
    auth:
      auth_url: @AUTH
      project_domain_name: Default
      user_domain_name: Default
      project_name: service
      username: authenticator
      password: correct-horse
    region_name: RegionOne
  kolla-admin-system:
    auth:
      auth_url: @AUTH
      user_domain_name: Default
      system_scope: all
      username: authenticator
      password: correct-horse
    region_name: RegionOne
  kolla-admin-internal:
    auth:
      auth_url: @AUTH
      project_domain_name: Default
      user_domain_name: Default
      project_name: service
      username: authenticator
      password: correct-horse
    interface: internal
    cacert: @HERE/ca.pem
    region_name: RegionOne
`

const devstackClouds = `
clouds:
  devstack:
    auth:
      auth_url: @HTTPS/identity
      password: correct-horse
      project_domain_id: default
      project_name: demo
      user_domain_id: default
      username: demo
    cacert: @HERE/ca.pem
    identity_api_version: '3'
    region_name: RegionOne
    volume_api_version: '3'
  devstack-admin:
    auth:
      auth_url: @HTTP/identity
      password: correct-horse
      project_domain_id: default
      project_name: service
      user_domain_id: default
      username: authenticator
    identity_api_version: '3'
    region_name: RegionOne
    volume_api_version: '3'
  devstack-system-admin:
    auth:
      auth_url: @HTTP/identity
      password: correct-horse
      system_scope: all
      user_domain_id: default
      username: authenticator
    identity_api_version: '3'
    region_name: RegionOne
    volume_api_version: '3'
functional:
  image_name: cirros
`

const publicClouds = `
public-clouds:
  ours:
    auth: {auth_url: "@AUTH", user_domain_name: Public, project_domain_name: Public}
    interface: internal
    regions: [RegionTwo, RegionOne]
`
