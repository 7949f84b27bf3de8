"""Bill of materials and dependency audit of this environment: `make audit`.

Writes `build/sbom.cdx.json` (CycloneDX 1.5), then asks pip-audit for known vulnerabilities. Exit
codes: 0 none is known, 1 some are, 3 the audit could not be made, or not of every distribution
(no pip-audit, no network, or an index that does not know them).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PACKAGE = 'ptychopinn-plugin'
CLEAN, VULNERABLE, NOT_ASKED = 0, 1, 3
WAIT_S = 300


def main() -> int:
    """Write the bill, audit, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--output', type=Path, default=Path('build/sbom.cdx.json'))
    parser.add_argument('--no-audit', action='store_true', help='only write the bill')
    parser.add_argument('--auditor', default='pip-audit', help='where pip-audit is')
    options = parser.parse_args()
    made = bill()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(made, indent=1) + '\n')
    print(f'{options.output}: {len(made["components"])} distributions')
    return CLEAN if options.no_audit else audit(made, options.auditor)


def bill() -> dict[str, Any]:
    """Return every distribution of this environment in CycloneDX."""
    found = {canonicalize_name(d.name): d for d in metadata.distributions()}
    own = found.pop(canonicalize_name(PACKAGE))
    return {
        'bomFormat': 'CycloneDX',
        'specVersion': '1.5',
        'version': 1,
        'metadata': {
            'timestamp': datetime.now(UTC).isoformat(timespec='seconds'),
            'component': {**_component(own), 'type': 'application'},
        },
        'components': [_component(found[name]) for name in sorted(found)],
        'dependencies': [
            {
                'ref': _purl(d),
                'dependsOn': sorted({_purl(found[n]) for n in required(d) if n in found}),
            }
            for d in (own, *(found[name] for name in sorted(found)))
        ],
    }


def required(distribution: metadata.Distribution, extras: tuple[str, ...] = ('',)) -> Iterator[str]:
    """Yield the names that a distribution requires here, with these extras."""
    for text in distribution.requires or ():
        one = Requirement(text)
        if one.marker is None or any(one.marker.evaluate({'extra': e}) for e in extras):
            yield canonicalize_name(one.name)


def _component(distribution: metadata.Distribution) -> dict[str, Any]:
    facts = distribution.metadata
    licence = facts.get('License-Expression') or facts.get('License') or ''
    made: dict[str, Any] = {
        'type': 'library',
        'bom-ref': _purl(distribution),
        'name': distribution.name,
        'version': distribution.version,
        'purl': _purl(distribution),
    }
    if licence and len(licence) < 100:
        made['licenses'] = [{'license': {'name': licence}}]
    return made


def _purl(distribution: metadata.Distribution) -> str:
    return f'pkg:pypi/{canonicalize_name(distribution.name)}@{distribution.version}'


def audit(made: dict[str, Any], auditor: str = 'pip-audit') -> int:
    """Ask pip-audit about the distributions of a bill; tell where it could not be asked."""
    try:
        ended = subprocess.run(
            [auditor, '--path', sysconfig.get_path('purelib'), '--format', 'json',
             '--progress-spinner', 'off'],
            capture_output=True, text=True, timeout=WAIT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return _not_asked(f'pip-audit did not answer within {WAIT_S} s')
    except OSError as error:
        return _not_asked(f'{auditor}: {error.strerror}')
    try:
        answer = json.loads(ended.stdout)['dependencies']
    except (ValueError, KeyError, TypeError):
        lines = ended.stderr.strip().splitlines() or ['it said nothing']
        return _not_asked(lines[-1][:300])
    hit = [d for d in answer if d.get('vulns')]
    # What is not from the index cannot be known to it: this package, and local builds.
    local = {c['name'] for c in made['components'] if '+' in c['version']} | {PACKAGE}
    asked = [d for d in answer if 'skip_reason' not in d]
    skipped = {d['name'] for d in answer if 'skip_reason' in d}
    for found in hit:
        names = ', '.join(v['id'] for v in found['vulns'])
        print(f'{found["name"]} {found["version"]}: {names}')
    print(
        f'{len(asked)} of {len(made["components"]) + 1} distributions were asked about, '
        f'{len(hit)} have known vulnerabilities'
    )
    if hit:
        return VULNERABLE
    unknown = sorted(skipped - local)
    if unknown or not asked:
        few = ', '.join(unknown[:5]) + (' ...' if len(unknown) > 5 else '')
        return _not_asked(f'the index did not know {len(unknown)} distributions: {few}')
    return CLEAN


def _not_asked(why: str) -> int:
    print(f'NO COMPLETE AUDIT WAS MADE: {why}', file=sys.stderr)
    return NOT_ASKED


if __name__ == '__main__':
    sys.exit(main())
