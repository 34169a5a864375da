"""The file that an Envoy starts with: envoy/bootstrap.yaml with its blanks filled in."""

from string import Template

from services.files import resource


def rendered(node: str, *, admin: tuple[str, int], ads: tuple[str, int]) -> str:
    """For an Envoy of that name: where its admin page listens, and where the control plane is, host and port each."""
    return Template(resource("envoy/bootstrap.yaml").read_text()).substitute(
        node_id=node, admin_address=admin[0], admin_port=admin[1], ads_address=ads[0], ads_port=ads[1]
    )
