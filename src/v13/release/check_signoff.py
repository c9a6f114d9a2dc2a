"""Checks of the sign-off: whole, signed, PASS, on recorded data, young enough, and judged in all the guide asks.

What the bundle says is believed only once all its files are those of its manifest.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Final

from v13 import store
from v13.release.check_artifacts import SCHEMAS
from v13.release.check_scene import NO_BUNDLE, Finding, Scene, absent, bad, good, short_hash
from v13.release.envelope import moment, stamp
from v13.release.keys import short
from v13.release.trust import ENVELOPE_FILE, verify_bundle
from v13.verdict import Status, Verdict

__all__ = ["GUIDE_CRITERIA", "MAX_AHEAD", "age", "bundle", "criteria", "recorded_data", "signature", "verdict"]

MAX_AHEAD: Final = timedelta(seconds=2)  # as far apart as two sane clocks may be
PRODUCTION: Final = "production"
# What the deployment guide asks of a release, in its order; the calibration beside it is the project's own.
GUIDE_CRITERIA: Final = (
    *("accuracy_10", "accuracy_20", "monotonicity", "bucket_ofi_only", "bucket_cvd_only"),
    *("events_per_hour", "median_score", "compute_p95", "event_p95", "pipeline_p95", "closure", "hot_reload"),
)


def bundle(scene: Scene) -> Finding:
    """Check that the bundle is whole and says what its own criteria come to."""
    found = scene.bundle
    store.validate(dict(found.signoff), SCHEMAS / "signoff.schema.json")
    said = Verdict.from_dict({"overall": found.signoff["verdict"], "criteria": found.signoff["criteria"]})
    for name, digest in found.signoff["artifacts"].items():
        entry = found.manifest["outputs"].get(f"artifacts/{name}")
        if entry is None or entry["sha256"] != digest:
            return bad(f"artifacts/{name}: signoff.json and manifest.json do not agree on its sha256")
    files = f"signoff.json {short_hash(found.hashes['signoff.json'])}"
    return good(
        f"{found.folder.name}: {len(found.manifest['outputs'])} files as in manifest.json {short_hash(found.sha256)}, "
        f"{files}; {len(said.criteria)} criteria come to {said.overall}",
        {
            "bundle": found.folder.name,
            "manifest_sha256": found.sha256,
            "signoff_sha256": found.hashes["signoff.json"],
            "v13_version": str(found.signoff["v13_version"]),
            "verdict": str(found.signoff["verdict"]),
            "data": "simulated" if found.signoff["simulated"] else "recorded",
            "accuracy": "; ".join(
                f"{c['title']}: {c['estimate']:.3f}"
                for c in found.signoff["criteria"]
                if c["key"].startswith("accuracy_") and c["estimate"] is not None
            ),
        },
    )


def signature(scene: Scene) -> Finding:
    """Check that a trusted key signed this very bundle."""
    site = scene.site
    if not site.config.deploy.require_signature and not os.path.lexists(site.signoff / ENVELOPE_FILE):
        return absent("unsigned, which deploy.require_signature: false allows here")
    trusted = verify_bundle(site.signoff, site.signers, now=scene.now())
    return good(
        f"key {short(trusted.key_id)} signed manifest.json {short_hash(trusted.sha256)} and through it "
        f"{trusted.n_files} files at {stamp(trusted.signed)}; it holds until {stamp(trusted.expires)}"
    )


def verdict(scene: Scene) -> Finding:
    """Check that the verdict is PASS."""
    if not scene.has_bundle():
        return bad(NO_BUNDLE)
    found = scene.bundle.signoff
    failed = [c["key"] for c in found["criteria"] if c["status"] in (Status.FAIL.value, Status.INSUFFICIENT.value)]
    if found["verdict"] != Status.PASS.value:
        return bad(f"the verdict is {found['verdict']}: {', '.join(failed) or 'no criterion is met'}")
    passed = sum(c["status"] == Status.PASS.value for c in found["criteria"])
    return good(f"PASS: {passed} of {len(found['criteria'])} criteria are met, none failed")


def recorded_data(scene: Scene) -> Finding:
    """Check that the sign-off is of recorded data, or simulated where that is allowed; never in production."""
    if not scene.has_bundle():
        return bad(NO_BUNDLE)
    found, env = scene.bundle.signoff, scene.site.env
    rows = found["data"]
    told = ", ".join(f"{row['symbol']} {row['n_bars']:,} bars of {row['bar_ms']} ms" for row in rows)
    if not found["simulated"] and not any(row["simulated"] for row in rows):
        return good(f"recorded: {told}")
    if env == PRODUCTION or not scene.site.config.deploy.allow_simulated:
        return bad(f"SIMULATED data, which are not for {env}: {told}")
    return good(f"SIMULATED data, which deploy.allow_simulated lets pass in {env}: {told}")


def age(scene: Scene) -> Finding:
    """Check that the sign-off has not expired, and was not made in the future."""
    if not scene.has_bundle():
        return bad(NO_BUNDLE)
    found, now = scene.bundle.manifest["created_utc"], scene.now()
    made, limit_d = moment(found, "manifest.json: created_utc"), scene.site.config.deploy.max_signoff_age_d
    if made > now + MAX_AHEAD:
        remedy = "set the clock right; where it is right, the timestamp is forged: find out who made this bundle"
        return bad(f"made at {stamp(made)}, and here it is {stamp(now)}: a time that has not come", remedy)
    days = (now - made) / timedelta(days=1)
    if days > limit_d:
        return bad(f"made at {stamp(made)}, {days:.1f} days ago; at most {limit_d:g} are allowed")
    return good(f"made at {stamp(made)}, {days:.1f} days ago; at most {limit_d:g} are allowed")


def criteria(scene: Scene) -> Finding:
    """Check that all of the guide's criteria were judged; where not in production, what is open is told."""
    if not scene.has_bundle():
        return bad(NO_BUNDLE)
    status = {c["key"]: c["status"] for c in scene.bundle.signoff["criteria"]}
    unjudged = (Status.NOT_RUN.value, Status.NOT_APPLICABLE.value)
    named = [(key, status.get(key, "missing")) for key in GUIDE_CRITERIA]
    open_ = [f"{key} {word}" for key, word in named if word in (*unjudged, "missing")]
    # Of the project's own criteria only what nobody has run is open: some have no meaning on some data.
    open_ += [f"{k} {s}" for k, s in status.items() if k not in GUIDE_CRITERIA and s == Status.NOT_RUN.value]
    text = f"{len(status) - sum(s in unjudged for s in status.values())} of {len(status)} criteria judged"
    if not open_:
        return good(f"{text}, with all {len(GUIDE_CRITERIA)} of the guide")
    if scene.site.env == PRODUCTION:
        return bad(f"{text}; open: {', '.join(open_)}")
    return good(f"{text}; open, which production would refuse: {', '.join(open_)}")
