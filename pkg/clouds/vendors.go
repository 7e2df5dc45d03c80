package clouds

import (
	"fmt"
	"sync"

	"gopkg.in/yaml.v3"
)

// vendors are the profiles of public clouds in openstacksdk (openstack/config/vendors), with the keys that decide where
// and how a cloud is called.
const vendors = `
auro: {auth: {auth_url: "https://api.van2.auro.io:5000/v3", user_domain_name: Default, project_domain_name: Default}, region_name: RegionOne}
betacloud: {closed: "betacloud.de has ended"}
binero: {auth: {auth_url: "https://auth.binero.cloud:5000/v3"}, regions: [europe-se-1]}
bluebox: {region_name: RegionOne}
catalyst: {auth: {auth_url: "https://api.cloud.catalyst.net.nz:5000/v2.0"}, regions: [nz-por-1, nz_wlg_2]}
citycloud: {auth: {auth_url: "https://{region_name}.citycloud.com:5000/v3/"}, regions: [Buf1, Fra1, Sto2, Kna1, dx1, tky1]}
conoha: {auth: {auth_url: "https://identity.{region_name}.conoha.io"}, regions: [sin1, sjc1, tyo1]}
dreamcompute: {auth: {auth_url: "https://iad2.dream.io:5000"}, region_name: RegionOne}
elastx: {auth: {auth_url: "https://ops.elastx.cloud:5000/v3"}, region_name: se-sto}
entercloudsuite: {auth: {auth_url: "https://api.entercloudsuite.com/"}, regions: [it-mil1, nl-ams1, de-fra1]}
fuga: {auth: {auth_url: "https://identity.api.fuga.io:5000", user_domain_name: Default, project_domain_name: Default}, regions: [cystack], message: the profile fuga is deprecated}
ibmcloud: {closed: its API no longer answers}
internap: {closed: the vendor no longer has a public OpenStack}
limestonenetworks: {auth: {auth_url: "https://auth.cloud.lstn.net:5000/v3"}, regions: [us-dfw-1, us-slc]}
otc: {auth: {auth_url: "https://iam.{region_name}.otc.t-systems.com/v3"}, regions: [eu-de, eu-nl]}
otc-swiss: {auth: {auth_url: "iam-pub.eu-ch2.sc.otc.t-systems.com/v3"}, regions: [eu-ch2]}
ovh: {message: "its values are at https://ovhcloud.com/.well-known/openstack/api, which is not fetched; write auth_url and region_name into the cloud"}
ovh-us: {auth: {auth_url: "https://auth.cloud.ovh.us/", user_domain_name: Default, project_domain_name: Default}, regions: [US-EAST-VA-1, US-WEST-OR-1, US-EAST-VA, US-WEST-OR]}
rackspace: {auth: {auth_url: "https://identity.api.rackspacecloud.com/v2.0/"}, compute_service_name: cloudServersOpenStack, regions: [DFW, HKG, IAD, ORD, SYD, LON]}
switchcloud: {auth: {auth_url: "https://identity.compute.cloud.switch.ch/v3"}, regions: [zhw, zhc]}
switchengines: {auth: {auth_url: "https://keystone.cloud.switch.ch:5000/v3"}, regions: [LS, ZH]}
ultimum: {closed: ultimum-cloud.com has ended}
unitedstack: {closed: its API no longer answers}
vexxhost: {message: "its values are at https://vexxhost.com/.well-known/openstack/api, which is not fetched; write auth_url and region_name into the cloud"}
zetta: {auth: {auth_url: "https://identity.api.zetta.io/v3"}, regions: [no-osl1]}
`

var parsedVendors = sync.OnceValues(func() (*value, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(vendors), &doc); err != nil {
		return nil, err
	}
	p := &parser{left: maxValues, base: "vendor profile"}
	return p.value(doc.Content[0], "clouds")
})

// vendor returns the profile of a vendor, nil if there is none of this name.
func vendor(name string) (*value, error) {
	all, err := parsedVendors()
	if err != nil {
		return nil, err
	}
	found := all.keys[name]
	if found == nil {
		return nil, nil
	}
	if closed := found.get("closed"); closed != nil {
		return nil, fmt.Errorf("the public cloud %s no longer exists: %s", name, closed.text)
	}
	return found, nil
}
