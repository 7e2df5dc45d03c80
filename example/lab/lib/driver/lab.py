"""The hypervisor of the lab: Nova's fake driver, with what a trial needs beside it. It keeps servers in memory and boots
nothing."""
import time

import nova.context
from nova import objects
from nova.compute import power_state, vm_states
from nova.virt import fake

try:
    from nova.virt import node  # from 2023.2 on
except ImportError:
    node = None


def slow(instance, verb):
    """Sleeps as long as the server's own metadata asks for, so that a state between two others can be looked at:
    lab_build_seconds, lab_snapshot_seconds, lab_reboot_seconds, lab_migrate_seconds, at most 120."""
    try:
        seconds = float((instance.metadata or {}).get(f"lab_{verb}_seconds", 0))
    except ValueError:
        return
    time.sleep(max(0, min(seconds, 120)))


class Driver(fake.SameHostColdMigrateDriver):
    vcpus, memory_mb, local_gb = 1000, 800000, 600000  # of the plain fake driver; the parent's are smaller

    if node:
        # From 2023.2 on a host has an identity, which the fake driver invents anew at each start.
        def get_nodenames_by_uuid(self, refresh=False):
            return {node.get_local_node_uuid(): self.get_available_nodes()[0]}

        def get_available_resource(self, nodename):
            return {**super().get_available_resource(nodename), "uuid": node.get_local_node_uuid()}

    def init_host(self, host):
        """Takes the servers that Nova knows as running here; the fake driver forgets them at a restart."""
        super().init_host(host)
        without_guest = (vm_states.BUILDING, vm_states.DELETED, vm_states.ERROR, vm_states.SHELVED_OFFLOADED)
        for one in objects.InstanceList.get_by_host(nova.context.get_admin_context(), host):
            if one.vm_state not in without_guest:
                self.instances[one.uuid] = fake.FakeInstance(one.name, one.power_state, one.uuid)

    def spawn(self, context, instance, *args, **kwargs):
        slow(instance, "build")
        super().spawn(context, instance, *args, **kwargs)

    def snapshot(self, context, instance, image_id, update_task_state):
        super().snapshot(context, instance, image_id, update_task_state)
        slow(instance, "snapshot")

    def reboot(self, context, instance, *args, **kwargs):
        slow(instance, "reboot")
        super().reboot(context, instance, *args, **kwargs)

    def migrate_disk_and_power_off(self, context, instance, *args, **kwargs):
        slow(instance, "migrate")
        return super().migrate_disk_and_power_off(context, instance, *args, **kwargs)

    # The fake driver leaves the power state alone, and Nova then contradicts itself.
    def pause(self, instance):
        self.instances[instance.uuid].state = power_state.PAUSED

    def unpause(self, instance):
        self.instances[instance.uuid].state = power_state.RUNNING

    def suspend(self, context, instance):
        self.instances[instance.uuid].state = power_state.SUSPENDED

    def resume(self, context, instance, *args, **kwargs):
        self.instances[instance.uuid].state = power_state.RUNNING
