"""The parser, made from the settings declared in `config` and in `simulate`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from .. import __version__, orientation
from ..config import (
    ModelConfig,
    ReconstructionConfig,
    RuntimeConfig,
    TrainingConfig,
    declared,
    from_dict,
)
from ..simulate import Simulation
from . import commands

T = TypeVar('T')
WARNED = 3  # exit code


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog='ptychopinn-plugin',
        description='Physics-informed neural ptychography: train on scans, reconstruct objects.',
    )
    parser.add_argument('--version', action='version', version=f'%(prog)s {__version__}')
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        '--json', action='store_true', help='print one JSON object as the last line'
    )
    shared.add_argument('--debug', action='store_true', help='show tracebacks and debug messages')
    sub = parser.add_subparsers(title='commands', required=True, metavar='COMMAND')

    def command(name: str, run: Callable[..., Any], help: str) -> argparse.ArgumentParser:
        made = sub.add_parser(name, help=help, description=help, parents=[shared])
        made.set_defaults(run=run, code=lambda report: 0)
        return made

    _reconstruct(command('reconstruct', commands.reconstruct, 'make the object of a scan'))
    _check(command('check', commands.check, 'say what looks wrong with the numbers of a scan'))
    _orient(
        command('orient', commands.orient, 'say which flip or swap of the patterns fits a scan')
    )
    _train(command('train', commands.train, 'train a network on one or several scans'))
    _simulate(command('simulate', commands.simulate, 'make a scan of a known object'))
    convert = command('convert', commands.convert, 'write a scan in another format')
    _scan_flags(convert)
    convert.add_argument('scan', type=Path, metavar='SCAN')
    _output(convert)
    _compare(
        command('compare', commands.compare, 'score an object against a true or reference one')
    )
    info = command('info', commands.info, 'say what a model, scan or result file holds')
    info.add_argument('file', type=Path)
    command('doctor', commands.doctor, 'say which back ends and devices are there, what to install')
    command('link', commands.link, 'let a Ptychodus that pip did not reach find the plug-in')
    command('unlink', commands.unlink, 'take back what link did')
    demo = command(
        'demo', commands.demo, 'simulate, train, save, load, reconstruct: the whole story'
    )
    demo.add_argument('--folder', type=Path, default=Path('demo'), help='where its files go (demo)')
    add_settings(demo, RuntimeConfig, leave=('checks',))
    return parser


def _reconstruct(p: argparse.ArgumentParser) -> None:
    _scan_flags(p)
    p.add_argument('scan', type=Path, metavar='SCAN')
    p.add_argument('--model', type=Path, metavar='FILE', help='model file for the network start')
    p.add_argument(
        '--output', type=Path, metavar='FILE', help='product .h5 or result .npz to write'
    )
    p.add_argument(
        '--figure', type=Path, metavar='FILE', help='summary figure to write (.png, .pdf, .svg)'
    )
    p.add_argument(
        '--uncertainty', action='store_true',
        help='how far to trust the phase, by two simulated repeats, twice as many sweeps and two '
        'halves of the scan (takes six to seven times as long again)',
    )  # fmt: skip
    add_settings(p, ReconstructionConfig)
    add_settings(p, RuntimeConfig)
    p.set_defaults(code=lambda report: 1 if report['interrupted'] else 0)


def _check(p: argparse.ArgumentParser) -> None:
    _scan_flags(p)
    p.add_argument('scan', type=Path, metavar='SCAN')
    p.add_argument(
        '--guess', action='store_true', help='the probe is a guess, which asks for more overlap'
    )
    p.add_argument(
        '--orientation', action=argparse.BooleanOptionalAction, default=True,
        help='also compare short reconstructions in all eight orientations (True)',
    )  # fmt: skip
    add_settings(p, RuntimeConfig, leave=('checks',))
    p.set_defaults(code=lambda report: WARNED if report['warnings'] else 0)


def _orient(p: argparse.ArgumentParser) -> None:
    _scan_flags(p)
    p.add_argument('scan', type=Path, metavar='SCAN')
    for name, default, text in (
        ('sweeps', orientation.SWEEPS, 'sweeps for each of the eight orientations'),
        ('patterns', orientation.PATTERNS, 'neighbouring patterns that are looked at'),
    ):
        p.add_argument(
            f'--{name}', type=int, default=default, metavar='N', help=f'{text} ({default})'
        )
    add_settings(p, RuntimeConfig, leave=('checks',))


def _train(p: argparse.ArgumentParser) -> None:
    _scan_flags(p)
    p.add_argument('scans', type=Path, nargs='+', metavar='SCAN')
    p.add_argument(
        '--model', type=Path, required=True, metavar='FILE', help='model file .h5.zip to write'
    )
    p.add_argument(
        '--validation', type=Path, action='append', default=[], metavar='SCAN',
        help='scan to validate on; may be given several times',
    )  # fmt: skip
    p.add_argument('--initial', type=Path, metavar='FILE', help='model file to start from')
    p.add_argument('--folder', type=Path, help='checkpoints and logs (beside the model file)')
    p.add_argument(
        '--resume', action='store_true', help='go on from the last checkpoint in the folder'
    )
    add_settings(p, ModelConfig, leave=('pattern_size_px',))
    add_settings(p, TrainingConfig)
    add_settings(p, RuntimeConfig)


def _output(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        'output',
        type=Path,
        metavar='FILE',
        help='scan file to write (.npz, .h5, .cxi), or a folder for the files of Ptychodus',
    )


def _simulate(p: argparse.ArgumentParser) -> None:
    _output(p)
    add_settings(p, Simulation)


def _compare(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        'result', type=Path, metavar='RESULT', help='what was reconstructed: product, NPZ, scan'
    )
    p.add_argument(
        'truth', type=Path, metavar='TRUTH',
        help='scan (file or folder) with a known object, or a product',
    )  # fmt: skip
    p.add_argument('--truth-key', metavar='KEY', help='array in an NPZ to compare with')


def _scan_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        '--diffraction', choices=('auto', 'counts', 'amplitude'), default='auto',
        help='what the patterns in the file are (auto: told by their values)',
    )  # fmt: skip
    p.add_argument('--probe-key', metavar='KEY', help='array in the scan file to take as the probe')
    p.add_argument(
        '--product', type=Path, metavar='FILE', help='product file of a diffraction file'
    )


def add_settings(p: argparse.ArgumentParser, config: type, leave: tuple[str, ...] = ()) -> None:
    """Add a flag for every declared field of a configuration class but those in `leave`."""
    group = p.add_argument_group(config.__name__.removesuffix('Config').lower())
    for field, s in declared(config):
        if field.name in leave:
            continue
        flag = '--' + (s.flag or field.name).replace('_', '-')
        unit = f' [{s.unit}]' if s.unit else ''
        text = f'{s.help}{unit} ({field.default})'.replace('%', '%%')
        kind: dict[str, Any] = {'dest': _dest(config, field.name), 'default': None, 'help': text}
        if isinstance(field.default, bool):
            kind['action'] = argparse.BooleanOptionalAction
        else:
            kind['type'] = type(field.default)
            if s.choices:
                kind['choices'] = s.choices
            else:
                kind['metavar'] = {int: 'N', float: 'X'}.get(type(field.default), 'NAME')
        group.add_argument(flag, **kind)


def settings(config: type[T], args: argparse.Namespace) -> T:
    """Return the configuration that the flags describe; flags not given keep their defaults."""
    given = {f.name: getattr(args, _dest(config, f.name), None) for f, _ in declared(config)}
    return from_dict(config, {k: v for k, v in given.items() if v is not None})  # type: ignore[type-var]


def _dest(config: type, name: str) -> str:
    return f'{config.__name__}.{name}'
