"""Prints what Nova's own code writes to the config drive of a server: configdrive.py SERVER-ID NOVA-CONF..., as JSON of paths.

The fake hypervisor writes none. This is the part that asks for vendordata (nova/api/metadata/base.py)."""
import json
import sys

from nova import config, context, objects
from nova.api.metadata import base
from nova.network import neutron  # noqa: F401, registers its options

server, *files = sys.argv[1:]
config.parse_args(["nova-compute"] + ["--config-file=" + f for f in files])
objects.register_all()
admin = context.get_admin_context()
mapping = objects.InstanceMapping.get_by_instance_uuid(admin, server)
with context.target_cell(admin, mapping.cell_mapping) as cell:
    instance = objects.Instance.get_by_uuid(cell, server, expected_attrs=[
        "flavor", "info_cache", "metadata", "system_metadata", "security_groups", "keypairs", "device_metadata", "ec2_ids"])
    metadata = base.InstanceMetadata(instance, network_info=instance.get_network_info())
    drive = {}
    for path, data in metadata.metadata_for_config_drive():
        drive[path] = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
print(json.dumps(drive))
