"""`make audit`: the bill of materials is whole, and an audit that was not made says so."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

FILE = Path(__file__).resolve().parents[2] / 'tools' / 'audit.py'


@pytest.fixture(scope='module')
def audit():
    if not FILE.exists():
        pytest.skip('not a checkout')
    spec = importlib.util.spec_from_file_location('audit', FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_bill_holds_all_that_the_package_requires(audit):
    """And all that these require, and so on."""
    made = json.loads(json.dumps(audit.bill()))
    assert made['bomFormat'] == 'CycloneDX'
    assert made['metadata']['component']['name'] == audit.PACKAGE
    listed = {c['name'].lower().replace('_', '-').replace('.', '-') for c in made['components']}
    own = metadata.distribution(audit.PACKAGE)
    wanted, seen = [*audit.required(own)], set()
    assert len(wanted) >= 8
    while wanted:
        name = wanted.pop()
        if name not in seen:
            seen.add(name)
            wanted += audit.required(metadata.distribution(name))
    assert seen <= listed, seen - listed
    refs = {c['bom-ref'] for c in made['components']}
    assert all(set(d['dependsOn']) <= refs for d in made['dependencies'])
    assert all(c['version'] for c in made['components'])


@pytest.mark.parametrize(
    ('stdout', 'code'),
    [
        ('', 3), ('not JSON', 3), ('{}', 3),
        ('{"dependencies": [{"name": "a", "version": "1", "vulns": []}]}', 0),
        ('{"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "CVE-1"}]}]}', 1),
        ('{"dependencies": [{"name": "a", "skip_reason": "unknown"}]}', 3),
        ('{"dependencies": [{"name": "b", "skip_reason": "local"}]}', 3),
        ('{"dependencies": [{"name": "a", "vulns": []}, {"name": "b", "skip_reason": "x"}]}', 0),
        ('{"dependencies": [{"name": "a", "vulns": []}, {"name": "c", "skip_reason": "x"}]}', 3),
    ],
)  # fmt: skip
def test_an_audit_that_was_not_made_says_so(audit, monkeypatch, capsys, stdout, code):
    ended = SimpleNamespace(stdout=stdout, stderr='no network')
    monkeypatch.setattr(audit.subprocess, 'run', lambda *_, **__: ended)
    bill = {'components': [{'name': 'b', 'version': '1+cpu'}]}
    assert audit.audit(bill) == code
    assert ('NO COMPLETE AUDIT WAS MADE' in capsys.readouterr().err) is (code == 3)


def test_an_audit_that_hangs_is_not_made(audit, monkeypatch):
    def run(*_, **__):
        raise subprocess.TimeoutExpired('pip-audit', 1)

    monkeypatch.setattr(audit.subprocess, 'run', run)
    assert audit.audit({'components': []}) == 3
