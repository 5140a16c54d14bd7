"""The pages that there are, in the order of the menu."""

from __future__ import annotations

from gapless.console.configuration import configuration_view
from gapless.console.fleet import fleet_view
from gapless.console.incidents import incidents_view
from gapless.console.instances import instance_view, instances_view
from gapless.console.objectives import objectives_view
from gapless.console.pages import Page
from gapless.console.rollout import rollouts_view
from gapless.console.topology import topology_view
from gapless.console.traces import traces_view

PAGES = (
    Page(name="fleet", path="/", title="Fleet", view=fleet_view, tab="fleet"),
    Page(name="rollouts", path="/rollouts", title="Rollouts", view=rollouts_view, tab="rollouts"),
    Page(name="rollouts", path="/rollouts/{service}", title="Rollout", view=rollouts_view, tab="rollouts"),
    Page(name="rollouts", path="/rollouts/{service}/{number}", title="Rollout", view=rollouts_view, tab="rollouts"),
    Page(name="incidents", path="/incidents", title="Incidents", view=incidents_view, tab="incidents"),
    Page(name="topology", path="/topology", title="Topology", view=topology_view, tab="topology"),
    Page(name="instances", path="/instances", title="Instances", view=instances_view, tab="instances"),
    Page(name="instance", path="/instances/{id}", title="Instance", view=instance_view, tab="instances"),
    Page(name="traces", path="/traces", title="Traces", view=traces_view, tab="traces"),
    Page(name="traces", path="/traces/{id}", title="Trace", view=traces_view, tab="traces"),
    Page(
        name="configuration", path="/configuration", title="Configuration", view=configuration_view, tab="configuration"
    ),
    Page(
        name="configuration",
        path="/configuration/{service}",
        title="Configuration",
        view=configuration_view,
        tab="configuration",
    ),
    Page(name="objectives", path="/objectives", title="Objectives", view=objectives_view, tab="objectives"),
)

NOT_FOUND = Page(name="trouble", path="", title="Not found", view=fleet_view, tab="")
