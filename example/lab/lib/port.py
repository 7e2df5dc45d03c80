"""port.py find SERVER: prints a line for each port of a server, given by name or id: "id port mac network outer mtu metadata"
and, for each fixed address, "address/prefix,gateway". outer is yes on the outer network, no elsewhere; metadata is the address
of the network's own metadata port, or "-". Ends with 3 if there is no such server, with 1 if the cloud cannot be asked.
port.py wait PORT: waits until the port is wired (Neutron shows it ACTIVE).

Without a client library, which would need a second to be loaded."""
import json
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

secret, verb, what = sys.argv[1:]
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def call(url, body=None, token=None):
    headers = {"Content-Type": "application/json"}
    if token:
        headers["X-Auth-Token"] = token
    request = urllib.request.Request(url, json.dumps(body).encode() if body else None, headers)
    with opener.open(request, timeout=10) as answer:
        return answer.headers, json.load(answer)


def main():
    domain = {"id": "default"}
    headers, _ = call("http://127.0.0.1:5000/v3/auth/tokens?nocatalog", {"auth": {
        "identity": {"methods": ["password"],
                     "password": {"user": {"name": "admin", "domain": domain, "password": secret}}},
        "scope": {"project": {"name": "admin", "domain": domain}}}})
    token = headers["X-Subject-Token"]

    def nova(path):
        return call("http://127.0.0.1:8774/v2.1" + path, token=token)[1]

    def neutron(path):
        return call("http://127.0.0.1:9696/v2.0" + path, token=token)[1]

    if verb == "wait":
        for _ in range(120):
            if neutron(f"/ports/{what}")["port"]["status"] == "ACTIVE":
                return
            time.sleep(0.25)
        sys.exit("port not ACTIVE in time")

    query = "name=" + urllib.parse.quote(f"^{re.escape(what)}$")  # a pattern
    if re.fullmatch("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", what):
        query = "uuid=" + what
    found = [s["id"] for s in nova(f"/servers?all_tenants=1&{query}")["servers"] if what in (s["id"], s["name"])]
    if not found:
        sys.exit(3)
    networks = {n["id"]: n for n in neutron("/networks")["networks"]}
    subnets = {s["id"]: s for s in neutron("/subnets")["subnets"]}
    ports = neutron(f"/ports?device_id={found[0]}")["ports"]
    for port in sorted(ports, key=lambda p: p["created_at"]):
        network = networks[port["network_id"]]
        outer = "yes" if network["provider:physical_network"] else "no"
        own = [fixed["ip_address"] for p in neutron(f"/ports?network_id={network['id']}&device_owner=network:distributed")["ports"]
               for fixed in p["fixed_ips"] if "." in fixed["ip_address"]]
        addresses = []
        for fixed in port["fixed_ips"]:
            subnet = subnets[fixed["subnet_id"]]
            prefix = subnet["cidr"].split("/")[1]
            addresses.append(f"{fixed['ip_address']}/{prefix},{subnet['gateway_ip'] or ''}")
        print(found[0], port["id"], port["mac_address"], network["id"], outer, network["mtu"], *own[:1] or "-", *addresses)


try:
    main()
except (OSError, ValueError, KeyError) as err:
    sys.exit(f"the cloud cannot be asked: {err}")
