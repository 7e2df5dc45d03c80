package clouds

// Query is what the configuration of the program says. All fields are optional.
type Query struct {
	Cloud     string // name of a cloud in File; without it OS_CLOUD, then OS_*, then the only cloud of File
	File      string // path of clouds.yaml; without it OS_CLIENT_CONFIG_FILE and the folders of openstacksdk
	Region    string // wins over the cloud's
	Interface string // wins over the cloud's
}

// Cloud is how to reach a cloud, and the account to use there.
type Cloud struct {
	Source string // the file or variables, for messages

	AuthURL string // of Keystone, as it is written
	// User has an ID, or a name and a domain. With the ID of an application credential it may be empty.
	User     Name
	Password string // empty with an application credential
	// ApplicationCredential has an ID or a name. It is empty for a login by password.
	ApplicationCredential Credential
	Scope                 Scope

	Region     string   // empty: the catalog's first
	Interfaces []string // public, internal and admin, best first; never empty
	Compute    Service
	// Identity is the URL at which Keystone is asked about tokens and projects. Empty: the URL of the login.
	Identity string

	Insecure bool   // certificates are not verified
	CACert   string // path of a PEM file with the only trusted authorities; empty: the system's
	Cert     string // path of a PEM file with the client's certificate, and with its key if Key is empty
	Key      string // path of a PEM file

	// Warnings name values that are ignored or may be a mistake, each with its place.
	Warnings []string
}

// Name is an ID, or a name in a domain.
type Name struct {
	ID, Name string
	Domain   Domain
}

// Domain is an ID or a name, not both.
type Domain struct{ ID, Name string }

// Credential is an application credential.
type Credential struct{ ID, Name, Secret string }

// Scope is what the token is for: one of the fields, or none for the user's default project in Keystone.
type Scope struct {
	Project Name
	Domain  Domain
	System  bool
	Trust   string // ID
}

// Service says which endpoint a service has.
type Service struct {
	Endpoint string // URL to use instead of the catalog; empty: the catalog's
	Type     string // in the catalog, usually compute
	Name     string // in the catalog; empty: any
}
