"""`cutover lift`: opens the way out again, now or as soon as nobody renews the block. Needs only the API server."""

from __future__ import annotations

from pathlib import Path

import click

from workers.adapters.cluster import Cluster
from workers.entrypoints.cli_common import run
from workers.proof import lifter
from workers.proof.block import Placement, lift_at

MANAGER = "catalyst-cutover-lifter"


@click.command("lift", short_help="Lift an egress block that was left behind.")
@click.option("--namespace", default="catalyst-cutover-nodes", show_default=True, help="Where the node plan stands.")
@click.option("--plan", "config_map", default="cutover-node-plan", show_default=True, help="The ConfigMap.")
@click.option("--after", "seconds", type=float, help="Stand by: lift what is over; after so many seconds, anything.")
@click.option(
    "--able", metavar="PLURAL", help="Lift nothing: exit 0 when this account could, 1 saying what it may not."
)
@click.option("--policy", default="cutover-egress-block", show_default=True, help="The policy's name, for --able.")
@click.option("--kubeconfig", type=click.Path(path_type=Path), help="Default: the Pod's own service account.")
def command(
    namespace: str, config_map: str, seconds: float | None, able: str | None, policy: str, kubeconfig: Path | None
) -> None:
    """Lift the egress block of step 8. Safe at any time: a proof that is under way fails honestly.

    \b
    Examples
      cutover lift --kubeconfig ~/.kube/config      by hand, whatever stands
      cutover lift --after 2400                     as the lifter Job runs it
    """
    if able is not None:
        run(_able(Placement(namespace, config_map), able, policy, kubeconfig))
        click.echo("could lift")
        return
    lifted = run(_lift(Placement(namespace, config_map), seconds, kubeconfig))
    click.echo("block lifted" if lifted else "nothing was blocked")


async def _lift(place: Placement, seconds: float | None, kubeconfig: Path | None) -> bool:
    async with Cluster.open(kubeconfig=kubeconfig, field_manager=MANAGER) as cluster:
        if seconds is None:
            return await lift_at(cluster, place)
        return await lifter.watch(cluster, place, seconds)


async def _able(place: Placement, plural: str, policy: str, kubeconfig: Path | None) -> None:
    async with Cluster.open(kubeconfig=kubeconfig, field_manager=MANAGER) as cluster:
        await lifter.able(cluster, place, plural, policy)
