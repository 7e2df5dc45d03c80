"""Creates what trials and tests look at, where it is missing, and writes its ids to a JSON file: accounts, networks behind
routers, images, flavors, a security group, a key and servers. See README.md for what is what."""
import json
import os
import sys

import openstack

clouds_yaml, secret, out, dhcp = sys.argv[1:]  # dhcp: yes where instances have the metadata service by that alone


def cloud(name):
    config = openstack.config.OpenStackConfig(config_files=[clouds_yaml], load_envvars=False)
    return openstack.connection.Connection(config=config.get_one(name))


admin = cloud("admin")
identity, compute, network = admin.identity, admin.compute, admin.network

# Accounts.

identity.find_role("instance_reader") or identity.create_role(name="instance_reader")
roles = {r.name: r for r in identity.roles()}
users = {}


def project(name):
    return identity.find_project(name) or identity.create_project(name=name, domain_id="default")


def user(name, **on):
    who = identity.find_user(name) or identity.create_user(name=name, password=secret, domain_id="default")
    for role, where in on.items():
        identity.assign_project_role_to_user(where, who, roles[role])
    users[name] = who.id
    return who


workloads, other, service = project("workloads"), project("other"), project("service")
user("demo", member=workloads)
user("demo-reader", reader=workloads)
user("other", member=other)
user("no-rights", reader=service)
user("nova-vendordata", service=service)
user("authenticator", reader=service, service=service, instance_reader=service)
user("authenticator-admin", admin=service)
auditor = user("auditor")
identity.put(f"/system/users/{auditor.id}/roles/{roles['reader'].id}")


def application_credential():
    """An application credential of the authenticator's, good for one URL of Nova."""
    path = f"/users/{users['authenticator']}/application_credentials"
    own = cloud("authenticator").identity  # no other account may make it
    found = own.get(path, params={"name": "lab"}).json()["application_credentials"]
    if found:
        return found[0]["id"]
    made = own.post(path, json={"application_credential": {
        "name": "lab", "secret": secret, "roles": [{"name": "reader"}, {"name": "instance_reader"}],
        "access_rules": [{"service": "compute", "method": "GET", "path": "/v2.1/servers/detail"}]}})
    made.raise_for_status()
    return made.json()["application_credential"]["id"]


credential = application_credential()

# Flavors, images, networks.


def flavor(name, ram):
    return compute.find_flavor(name) or compute.create_flavor(name=name, ram=ram, vcpus=1, disk=1)


def image(name):
    return admin.image.find_image(name) or admin.image.create_image(
        name, data=b"\0" * 1024, disk_format="raw", container_format="bare", visibility="public", wait=True)


flavors = {name: flavor(name, ram) for name, ram in (("m1.nano", 64), ("m1.micro", 128))}
images = {name: image(name) for name in ("tiny", "tiny-2")}


def subnet(net, name, cidr, **more):
    """A subnet without router advertisements, and over IPv6 without DHCP: `instance` sets addresses, Neutron hands them out."""
    version = 6 if ":" in cidr else 4
    return next(iter(network.subnets(network_id=net.id, cidr=cidr)), None) or network.create_subnet(
        network_id=net.id, project_id=net.project_id, name=f"{name}-v{version}", ip_version=version, cidr=cidr,
        gateway_ip=cidr.split("/")[0].rstrip("0") + "1", enable_dhcp=dhcp == "yes" and version == 4, **more)


# Shared, so that a project may put a server right on it, as on a provider network.
public = network.find_network("public") or network.create_network(
    name="public", is_router_external=True, is_shared=True, provider_network_type="flat",
    provider_physical_network="public")
public_subnets = (
    subnet(public, "public", "172.24.4.0/24", allocation_pools=[{"start": "172.24.4.100", "end": "172.24.4.250"}]),
    subnet(public, "public", "fd24::/64", allocation_pools=[{"start": "fd24::100", "end": "fd24::ffff"}]))
networks = {"public": public}


def router(name, owner, number):
    """A router, seen outside as 172.24.4.NUMBER and fd24::NUMBER."""
    addresses = [f"172.24.4.{number}", f"fd24::{number}"]
    return network.find_router(name) or network.create_router(
        name=name, project_id=owner.id, external_gateway_info={"network_id": public.id, "external_fixed_ips": [
            {"subnet_id": s.id, "ip_address": a} for s, a in zip(public_subnets, addresses)]})


def private_network(name, owner, behind, *cidrs):
    net = network.find_network(name) or network.create_network(name=name, project_id=owner.id)
    for cidr in cidrs:
        made = subnet(net, name, cidr)
        if not list(network.ports(device_id=behind.id, network_id=net.id, fixed_ips=f"subnet_id={made.id}")):
            network.add_interface_to_router(behind, subnet_id=made.id)
    networks[name] = net


routers = {"workloads": router("workloads", workloads, 2), "other": router("other", other, 3)}
private_network("workloads", workloads, routers["workloads"], "10.20.0.0/24", "fd20::/64")
private_network("other", other, routers["other"], "10.30.0.0/24", "fd30::/64")
# The IPv4 addresses of the network workloads once more, in the other project.
private_network("twin", other, routers["other"], "10.20.0.0/24", "fd31::/64")

# Servers, by their owners.

demo, other_demo = cloud("demo"), cloud("other")
group = demo.network.find_security_group("web")
if not group:
    group = demo.network.create_security_group(name="web")
    for ethertype in ("IPv4", "IPv6"):
        demo.network.create_security_group_rule(
            security_group_id=group.id, direction="ingress", ethertype=ethertype, protocol="tcp", port_range_min=80,
            port_range_max=80)
if not demo.compute.find_keypair("demo"):
    demo.compute.create_keypair(name="demo")

wanted = (
    ("web-1", demo, "workloads", "10.20.0.11", "fd20::11",
     {"key_name": "demo", "metadata": {"role": "web"}}),
    ("db-1", demo, "workloads", "10.20.0.12", "fd20::12", {"metadata": {"role": "db"}}),
    ("edge-1", demo, "public", "172.24.4.21", "fd24::21", {"metadata": {"role": "edge"}}),
    ("other-1", other_demo, "other", "10.30.0.11", "fd30::11", {"metadata": {"role": "web"}}),
    ("twin-1", other_demo, "twin", "10.20.0.11", "fd31::11", {"metadata": {"role": "web"}}),
)


def create(name, conn, net, v4, v6, more):
    """A server on a port made beforehand: Nova itself takes one wanted address per network only. Made by the admin, as
    only the owner of a network may choose addresses on it."""
    port = network.find_port(name)
    if not port:
        groups = {"security_group_ids": [group.id]} if name == "web-1" else {}
        port = network.create_port(
            name=name, project_id=conn.current_project_id, network_id=networks[net].id,
            fixed_ips=[{"ip_address": v4}, {"ip_address": v6}], **groups)
    return conn.compute.create_server(
        name=name, flavor_id=flavors["m1.nano"].id, image_id=images["tiny"].id, networks=[{"port": port.id}], **more)


fresh = [w for w in wanted if not w[1].compute.find_server(w[0])]
for w in fresh:
    create(*w)

servers = {}
for name, conn, net, *_ in wanted:
    found = conn.compute.find_server(name)
    if any(name == w[0] for w in fresh):
        conn.compute.wait_for_server(found, interval=1, wait=120)
    found = conn.compute.get_server(found.id)
    ports = list(conn.network.ports(device_id=found.id))
    if name == "web-1" and not list(conn.network.ips(port_id=ports[0].id)):
        conn.compute.put(f"/servers/{found.id}/tags", json={"tags": ["production", "web"]}, microversion="2.26")
        conn.network.create_ip(floating_network_id=public.id, port_id=ports[0].id)
    floating = [ip.floating_ip_address for p in ports for ip in conn.network.ips(port_id=p.id)]
    fixed = [f["ip_address"] for p in ports for f in p.fixed_ips]
    servers[name] = {
        "id": found.id, "project_id": found.project_id, "user_id": found.user_id, "network_id": networks[net].id,
        "port_ids": [p.id for p in ports], "mac": ports[0].mac_address,
        "fixed_ips": {"v4": next(a for a in fixed if ":" not in a), "v6": next(a for a in fixed if ":" in a)},
        "floating_ip": floating[0] if floating else None}


def ids(things):
    return {name: thing.id for name, thing in things.items()}


with open(out + ".new", "w") as f:
    json.dump({
        "outside": {"v4": "172.24.4.1", "v6": "fd24::1"},
        "servers": servers,
        "projects": {p.name: p.id for p in (workloads, other, service)},
        "users": users,
        "application_credential": credential,
        "flavors": ids(flavors), "images": ids(images), "networks": ids(networks),
        "routers": {name: {"id": r.id, "v4": f"172.24.4.{n}", "v6": f"fd24::{n}"}
                    for (name, r), n in zip(routers.items(), (2, 3))},
    }, f, indent=1)
os.rename(out + ".new", out)
