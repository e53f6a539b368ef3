"""Pure: which remotes a model's Policies leave it.

Policies of one type are a union, of different types an intersection; no Policy of a type allows all, and so does one
that lists nothing. A remote is judged by what it declares: its `location`, of which one part must be named by a Policy,
and its `flavors`, all of which must be, since the remote chooses on which of them a request runs. A remote that
declares nothing of a type is not restricted by it; `notes` names it.

A Policy that does not exist (yet) might forbid anything, so it leaves no remote until it is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, get_args

from controller.api import ModelDeployment, Policy, RemoteBackend

_Type = Literal["location", "flavor"]
_TYPES: tuple[_Type, ...] = get_args(_Type)


def policy_keys(model: ModelDeployment) -> tuple[str, ...]:
    """The Policies in the cluster that a model names, '<namespace>/<name>'."""
    named = (ref for ref in model.spec.policies if ref.ref_type == "localPolicy")
    return tuple(dict.fromkeys(ref.object_key(model.metadata.namespace) for ref in named))


def allowed(remote: RemoteBackend, model: ModelDeployment, policies: Mapping[str, Policy]) -> str:
    """Why the model's Policies keep it from this remote, '' if they do not. `policies`: those that exist, by key."""
    keys = policy_keys(model)
    if missing := [key for key in keys if key not in policies]:
        return "; ".join(f"Policy {key} does not exist" for key in missing)
    refusals = (_refusal(remote, type_, [policies[key] for key in keys]) for type_ in _TYPES)
    return "; ".join(filter(None, refusals))


def notes(remotes: Iterable[RemoteBackend], model: ModelDeployment, policies: Mapping[str, Policy]) -> tuple[str, ...]:
    """Sentences on what the model's Policies do not reach."""
    unapplied = sorted({ref.name for ref in model.spec.policies if ref.ref_type == "remotePolicy"})
    types = {policies[key].spec.type for key in policy_keys(model) if key in policies}
    silent = [(remote.name, type_) for remote in remotes for type_ in _TYPES if not _declared(remote, type_)]
    return (
        *(f"Policy {name} is known to Beamlit only and is not applied here" for name in unapplied),
        *(
            f"remote {name} declares no {type_}, so no Policy restricts it by that"
            for name, type_ in silent
            if type_ in types
        ),
    )


def _refusal(remote: RemoteBackend, type_: _Type, policies: Iterable[Policy]) -> str:
    of_type = {policy.key: _terms(policy) for policy in policies if policy.spec.type == type_}
    wanted = {term for terms in of_type.values() for term in terms}
    declared = _declared(remote, type_)
    refused = [term for term in declared if term not in wanted]
    one_is_enough = type_ == "location"
    if not all(of_type.values()) or not of_type or not refused or (one_is_enough and len(refused) < len(declared)):
        return ""
    return f"{type_} is {', '.join(refused)}, and Policy {', '.join(of_type)} allows {', '.join(sorted(wanted))}"


def _declared(remote: RemoteBackend, type_: _Type) -> tuple[str, ...]:
    """What a remote says of itself, in the words of a Policy of this type: 'country fr', 'gpu h100'."""
    if type_ == "flavor":
        return tuple(f"{flavor.type} {flavor.name}" for flavor in remote.flavors)
    if remote.location is None:
        return ()
    parts = (
        ("location", remote.location.name),
        ("country", remote.location.country),
        ("continent", remote.location.continent),
    )
    return tuple(f"{kind} {name}" for kind, name in parts if name)


def _terms(policy: Policy) -> tuple[str, ...]:
    """What a Policy names; only what is of its type counts."""
    if policy.spec.type == "flavor":
        return tuple(f"{flavor.type} {flavor.name}" for flavor in policy.spec.flavors)
    return tuple(f"{place.type} {place.name}" for place in policy.spec.locations)
