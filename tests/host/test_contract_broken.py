"""Every clause of the contracts is seen to fail for a reconstructor that breaks it: BROKEN."""

from __future__ import annotations

import json
import logging
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ptychodus.api.object import Object, ObjectCenter
from ptychodus.api.probe import ProbeSequence
from ptychodus.api.product import LossValue
from ptychodus.api.reconstruct import TrainOutput

from ptychopinn_plugin.testing import ReconstructorLibraryContract

from .epie import SWEEPS, Epie, EpieLibrary, logger
from .test_contract import EpieContract, EpieHostContract, clause_of

FAILED = (AssertionError, pytest.fail.Exception)


def own(**members):
    """Return an ePIE with other members."""
    return type('Broken', (Epie,), members)


def yielding(change):
    """Return an ePIE whose outputs are changed on their way out: `change(output, input)`."""

    def reconstruct(self, parameters):
        for output in Epie.reconstruct(self, parameters):
            yield change(output, parameters)

    return own(reconstruct=reconstruct)


def making(change):
    """Return an ePIE whose products are changed: `change(product, input)`."""
    return yielding(lambda o, parameters: replace(o, product=change(o.product, parameters)))


def showing(change):
    """Return an ePIE whose objects are changed: `change(array)`."""
    return making(lambda product, parameters: with_object(product, change(product)))


def with_object(product, array):
    old = product.object_
    return replace(product, object_=Object(array, old.get_pixel_geometry(), old.get_center()))


def layer(product):
    return product.object_.get_layer(0)


def training(change):
    def train(self, input_path, output_path):
        for output in Epie.train(self, input_path, output_path):
            yield change(output)

    return own(train=train)


def meddling(before):
    """Return an ePIE that does something with its input first."""

    def sweeps(self, parameters):
        before(parameters)
        yield from Epie.sweeps(self, parameters)

    return own(sweeps=sweeps)


def nothing(self, *args):
    yield from ()


def touch_nothing(self, parameters):
    return map(id, ())


def eager(self, parameters):
    return iter(list(Epie.reconstruct(self, parameters)))


def start_early(self, parameters):
    threading.Thread(target=time.sleep, args=(4,), daemon=True).start()
    return Epie.reconstruct(self, parameters)


BUFFER = {}


def reuse_buffer(product, parameters):
    array = BUFFER.setdefault(id(parameters), layer(product))
    array[:] = layer(product)
    return with_object(product, array)


def spoil_probe(parameters):
    parameters.product.probes.get_array()[:] *= 1.0001


def write_same(parameters):
    parameters.diffraction_patterns[:] += 0


def need_mask(parameters):
    parameters.bad_pixels.sum()


def need_integers(parameters):
    np.bincount(parameters.diffraction_patterns[0].ravel())


def need_first_index_7(parameters):
    assert parameters.product.probe_positions[0].index == 7, 'I do not know this scan'


def need_one_mode(parameters):
    assert parameters.product.probes.get_array().shape[1] == 1, 'one mode, please'


def ignore_mask(self, parameters, obj):
    return Epie.sweep(self, replace(parameters, bad_pixels=None), obj)


def linger(self, parameters):
    try:
        yield from Epie.reconstruct(self, parameters)
    finally:
        time.sleep(0.6)


def leave_thread(parameters):
    threading.Thread(target=time.sleep, args=(4,), daemon=True).start()


def leave_file(parameters):
    import tempfile

    tempfile.mkdtemp()


def leave_process(parameters):
    import subprocess

    CHILDREN.append(subprocess.Popen(['sleep', '4']))


CHILDREN = []


def go_on_from_the_last(self, parameters):
    self.kept = getattr(self, 'kept', None)
    if self.kept is None:
        self.kept = Epie.start(self, parameters)
    return self.kept


def hang(self, parameters):
    time.sleep(1)
    raise ValueError('too late')


def refuse_without_words(self, parameters):
    try:
        Epie.check(self, parameters)
    except ValueError:
        logger.error('no')
        raise ValueError from None


def secretly(self, parameters):
    Epie.check(self, parameters)
    yield from Epie.sweeps(self, parameters)


def take_anything(self, file_path):
    self.step = 0.5


def forget_first(self, file_path):
    self.step = None
    Epie.load_model_from_file(self, file_path)


def half_read(self, file_path):
    self.step = 0.31 if self.step else None
    Epie.load_model_from_file(self, file_path)


def save_anything(self, file_path):
    Path(file_path).write_text('{}')


def save_another(self, file_path):
    Path(file_path).write_text(json.dumps({'step': 0.1 + 0.01 * (self.step or 0)}))


def save_another_later(self, file_path):
    saved = self.step if file_path.name == 'model.epie.json' else 0.1
    Path(file_path).write_text(json.dumps({'step': saved}))


def train_untidily(self, input_path, output_path):
    leave_file(None)
    yield from Epie.train(self, input_path, output_path)


def train_and_forget(self, input_path, output_path):
    try:
        yield from Epie.train(self, input_path, output_path)
    except GeneratorExit:
        self.step = None
        raise


def train_on_nothing(self, input_path, output_path):
    self.step = 0.5
    self.save_model(output_path / 'model.epie.json')
    yield TrainOutput([LossValue(1, 1.0)], [], SWEEPS)


def save_at_the_end(self, input_path, output_path):
    for number in range(1, SWEEPS + 1):
        yield TrainOutput([LossValue(1, 1.0)] * number, [], number)
    self.step = 0.5
    self.save_model(output_path / 'model.epie.json')


def save_elsewhere(self, input_path, output_path):
    (output_path / 'x').mkdir()
    yield from Epie.train(self, input_path, output_path / 'x')


def write_beside_the_data(self, input_path, output_path):
    yield from Epie.train(self, input_path, output_path)
    (input_path / 'cache').write_text('')


def keep_nothing(self, input_path, output_path):
    try:
        yield from Epie.train(self, input_path, output_path)
    except GeneratorExit:
        (output_path / 'model.epie.json').unlink()
        raise


def train_slowly(self, input_path, output_path):
    try:
        yield from Epie.train(self, input_path, output_path)
    finally:
        time.sleep(0.6)


def exporting(change):
    def export_training_data(self, file_path, parameters):
        Epie.export_training_data(self, file_path, parameters)
        with np.load(file_path) as stored:
            arrays = dict(stored)
        np.savez(file_path, **change(arrays))

    return own(export_training_data=export_training_data)


def without(key):
    return exporting(lambda a: {k: v for k, v in a.items() if k != key})


def with_array(key, change):
    return exporting(lambda a: {**a, key: change(a)})


def conjugate_probe(a):
    return a['probeGuess'].conj()


def swap_xy(a):
    return {**a, 'xcoords': a['ycoords'], 'ycoords': a['xcoords']}


LOST = LossValue(9, float('nan'))


def add_lost(product, parameters):
    return replace(product, losses=[*product.losses, LOST])


def last_loss(product, parameters):
    return replace(product, losses=product.losses[-1:])


def moved(product, parameters):
    old = product.object_
    centre = ObjectCenter(x_m=old.get_center().x_m + 1e-9, y_m=old.get_center().y_m)
    return replace(product, object_=Object(layer(product), old.get_pixel_geometry(), centre))


def reversed_positions(product, parameters):
    points = product.probe_positions
    return replace(product, probe_positions=type(points)(list(points)[::-1]))


def renamed(product, parameters):
    return replace(product, metadata=replace(product.metadata, name='other'))


def same_probe(product, parameters):
    return replace(product, probes=parameters.product.probes)


def coarser(product, parameters):
    old = product.object_
    pixel = replace(old.get_pixel_geometry(), width_m=1e-8)
    return replace(product, object_=Object(layer(product), pixel, old.get_center()))


def dark_probe(product, parameters):
    given = product.probes
    array = given.get_array() * np.inf
    return replace(product, probes=ProbeSequence(array, None, given.get_pixel_geometry()))


def stuck_epochs(product, parameters):
    return replace(product, losses=[replace(v, epoch=1) for v in product.losses])


LOSSES = []


def one_list(product, parameters):
    if len(product.losses) == 1:
        LOSSES.clear()
    LOSSES.append(product.losses[-1])
    return replace(product, losses=LOSSES)


def turn(product):
    """The picture laid the other way round, its shape kept."""
    array = layer(product).copy()
    array[:72, :72] = array[:72, :72].T
    return array


BROKEN = [
    ('rc1', r'goals \(0', own(get_progress_goal=lambda self: 0)),
    ('rc1', r'goals \(6.0', own(get_progress_goal=lambda self: 6.0)),
    ('rc2', 'it asks for product', own(reconstruct=eager)),
    ('rc2', 'cannot be closed', own(reconstruct=touch_nothing)),
    ('rc2', 'left behind: .*thread', own(reconstruct=start_early)),
    ('rc3', 'yielded nothing', own(reconstruct=nothing)),
    ('rc3', 'yielded Product', yielding(lambda o, p: o.product)),
    ('rc4', 'does not rise', yielding(lambda o, p: replace(o, progress=3))),
    ('rc4', 'beyond the goal', yielding(lambda o, p: replace(o, progress=o.progress + 1))),
    ('rc4', 'ends at 5 of 6', yielding(lambda o, p: replace(o, progress=o.progress - 1))),
    ('rc5', "metadata name is 'other'", making(renamed)),
    ('rc5', 'centre of the object, x_m', making(moved)),
    ('rc5', 'other scan indexes', making(reversed_positions)),
    ('rc5', r'the object is \(1, 71, 88\)', showing(lambda product: layer(product)[1:])),
    ('rc5', 'object, width_m is', making(coarser)),
    ('rc6', 'the object is not finite', showing(lambda product: layer(product) * np.nan)),
    ('rc6', 'the probe is not finite', making(dark_probe)),
    ('rc7', 'has no losses', making(lambda product, p: replace(product, losses=[]))),
    ('rc7', 'not finite: .*nan', making(add_lost)),
    ('rc7', 'losses do not grow', making(last_loss)),
    ('rc7', 'epochs do not rise', making(stuck_epochs)),
    ('rc8', 'object of yield 0 changed later', making(reuse_buffer)),
    ('rc8', 'probe of yield 0 is also', making(same_probe)),
    ('rc8', 'losses of yield 0 changed', making(one_list)),
    ('rc9', 'input was changed: probe', meddling(spoil_probe)),
    ('rc10', 'read-only arrays: ValueError', meddling(write_same)),
    ('rc11', 'no mask: AttributeError', meddling(need_mask)),
    ('rc12', 'float counts: TypeError', meddling(need_integers)),
    ('rc13[tall]', 'tall: .*not know this scan', meddling(need_first_index_7)),
    ('rc13[modes]', 'modes: .*one mode', meddling(need_one_mode)),
    ('rc13[bad pixels]', 'like the true one to 0', own(sweep=ignore_mask)),
    ('rc14', 'closing took 0.6 s', own(reconstruct=linger)),
    ('rc14', 'left behind: .*thread', meddling(leave_thread)),
    ('rc14', 'left behind: .*file', meddling(leave_file)),
    ('rc14', 'left behind: .*process', meddling(leave_process)),
    ('rc15', 'after a closed one: another object', own(start=go_on_from_the_last)),
    ('rc16', r'px \(y, x\) off its place', showing(lambda product: np.roll(layer(product), 1, 1))),
    ('rc16', 'the object is upside down', showing(lambda product: layer(product)[::-1].copy())),
    ('rc16', 'the object is transposed', showing(turn)),
    ('rc16', 'phase .* has the wrong sign', showing(lambda product: layer(product).conj())),
    ('rc16', 'like the true one to 0.00', showing(lambda product: np.ones_like(layer(product)))),
    ('rc17[NaN positions]', 'ValueError without a message', own(check=refuse_without_words)),
    ('rc17[fewer patterns than positions]', 'no error is logged', own(reconstruct=secretly)),
    ('rc17[a probe of another size]', 'no exception was raised', own(reconstruct=nothing)),
    ('rc17[NaN positions]', 'It hangs: not done after 0.8 s', own(check=hang)),
    ('tc1', 'a model is loaded', own(is_model_loaded=lambda self: True)),
    ('tc2', 'not a file filter', own(get_model_file_filter=lambda self: '*.epie.json')),
    ('tc2', 'the filter of models .* has no', own(get_model_file_filter=lambda self: 'A (*.json)')),
    ('tc2', "not a file filter: 'all'", own(get_training_data_file_filter=lambda self: 'all')),
    ('tc3', "extension 'json'", own(get_model_file_extension=lambda self: 'json')),
    ('tc4', 'saving without a model: no exc', own(save_model=save_anything)),
    ('tc5', 'reconstructing without a model: no exc', own(reconstruct=nothing)),
    ('tc6[truncated]', 'is truncated: no exception', own(load_model_from_file=take_anything)),
    ('tc6[truncated]', 'truncated: another object', own(load_model_from_file=half_read)),
    ('tc6[empty]', 'model is lost', own(load_model_from_file=forget_first)),
    ('tc6[missing]', 'is missing: no exception', own(load_model_from_file=take_anything)),
    ('tc6[foreign]', 'is foreign: no exception', own(load_model_from_file=take_anything)),
    ('tc7', 'no training loss', training(lambda o: replace(o, training_loss=[]))),
    ('tc7', 'a loss is not finite', training(lambda o: replace(o, validation_loss=[LOST]))),
    ('tc8', 'does not rise', training(lambda o: replace(o, progress=2))),
    ('tc8', 'beyond the goal', training(lambda o: replace(o, progress=o.progress + 1))),
    ('tc8', 'ends at 2 of 3', training(lambda o: replace(o, progress=o.progress - 1))),
    ('tc8', r'goals \(0', own(get_progress_goal=lambda self: 0)),
    ('tc9', 'there is no model.epie.json', own(train=save_elsewhere)),
    ('tc9', 'train yielded nothing', own(train=nothing)),
    ('tc9', 'no model is loaded after the', own(is_model_loaded=lambda self: False)),
    ('tc10', 'saved and loaded: another', own(save_model=save_another)),
    ('tc10', 'saved and loaded: another', own(save_model=save_another_later)),
    ('tc11', 'an empty folder: no exception', own(train=train_on_nothing)),
    ('tc12', 'there is no model.epie.json', own(train=save_at_the_end)),
    ('tc12', 'there is no model.epie.json', own(train=keep_nothing)),
    ('tc12', 'closing took 0.6 s', own(train=train_slowly)),
    ('tc12', 'left behind: .*file', own(train=train_untidily)),
    ('tc12', 'no model is loaded', own(train=train_and_forget)),
    ('tc13', 'nothing was exported', own(export_training_data=lambda self, file, p: None)),
    ('tc14', 'x is a column, y a row', exporting(swap_xy)),
    ('tc14', 'has no scan_index', without('scan_index')),
    ('tc14', 'neither the counts nor', with_array('diff3d', lambda a: a['diff3d'][::-1])),
    ('tc14', 'probeGuess is another probe', with_array('probeGuess', conjugate_probe)),
    ('tc14', 'objectGuess has the shape', with_array('objectGuess', lambda a: a['objectGuess'].T)),
    ('tc15', 'training data was changed: .*cache', own(train=write_beside_the_data)),
]  # fmt: skip


@pytest.mark.parametrize(('clause', 'message', 'kind'), BROKEN, ids=[row[0] for row in BROKEN])
def test_a_broken_reconstructor_fails_its_clause(clause, message, kind):
    class Contract(EpieContract):
        close_s = train_close_s = 0.3 if 'closing took' in message else 30
        limit_s = 0.8 if kind.check is hang else 30

    Contract.kind = kind
    name, _, case = clause.rstrip(']').partition('[')
    with pytest.raises(FAILED, match=message):
        clause_of(Contract(), name)(*[case] * bool(case))


def test_to_need_a_model_after_all_fails():
    class Contract(EpieContract):
        needs_model = False

    with pytest.raises(FAILED, match='without a model: RuntimeError: There is no model'):
        clause_of(Contract(), 'tc5')()


def library_of(kinds=(Epie,), **members):
    """Return a library of reconstructors, with other members."""

    def __iter__(self):
        return iter([kind() for kind in kinds]) if members.get('fresh') else iter(self.held)

    held = {'held': [kind() for kind in kinds], '__iter__': __iter__}
    return type('Broken', (EpieLibrary,), {**held, **members})


LIBRARIES = [
    ('lb1', 'has an underscore', library_of(name='My_Toys')),
    ('lb1', 'comes with the host', library_of(name='ptychopinn')),
    ('lb1', "name is ''", library_of(name='')),
    ('lb2', 'holds no reconstructor', library_of(kinds=())),
    ('lb2', 'not a Reconstructor', library_of(kinds=(dict,))),
    ('lb2', 'yields other reconstructors', library_of(fresh=True)),
    ('lb3', 'equal keys', library_of(kinds=(Epie, own(name='EPIE')))),
    ('lb3', 'has no name', library_of(kinds=(own(name=''),))),
    ('lb3', 'do not split', library_of(name='A_B')),
    ('lb4', 'get_logger returns None', library_of(get_logger=lambda self: None)),
    ('lb4', 'the root logger', library_of(get_logger=lambda self: logging.getLogger())),
    ('lb4', 'cannot be set', library_of(set_log_level=lambda self, name: None)),
]


@pytest.mark.parametrize(('clause', 'message', 'kind'), LIBRARIES)
def test_a_broken_library_fails_its_clause(clause, message, kind):
    class Contract(ReconstructorLibraryContract):
        def make_library(self):
            return kind()

    with pytest.raises(FAILED, match=message):
        clause_of(Contract(), clause)()


@pytest.mark.parametrize(
    ('message', 'code'),
    [
        ('Say how the library is made', ''),
        ('It cannot be built:\n.*no such name', 'raise KeyError("no such name")'),
        (r"imports \['keras'\]", 'import sys; sys.modules["keras"] = sys'),
        (
            r"starts threads \['mine'\]",
            'import threading, time\n'
            'threading.Thread(target=time.sleep, args=(9,), name="mine", daemon=True).start()',
        ),
        (
            r'starts processes \[',
            'import subprocess, sys\n'
            'subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)',
        ),
    ],
)
def test_a_heavy_library_fails_its_clause(message, code):
    class Contract(ReconstructorLibraryContract):
        library_code = code

    with pytest.raises(FAILED, match=f'(?s){message}'):
        clause_of(Contract(), 'lb5')()


def tired(self, parameters):
    """Every run differs from the one before."""
    self.step *= 0.5
    yield from Epie.reconstruct(self, parameters)


def sulking(self, parameters):
    """After an error nothing works."""
    if getattr(self, 'hurt', False):
        raise RuntimeError('I am hurt')
    try:
        yield from Epie.reconstruct(self, parameters)
    except ValueError:
        self.hurt = True
        raise


def swallowing(self, parameters):
    try:
        yield from Epie.reconstruct(self, parameters)
    except ValueError:
        return


@pytest.mark.parametrize(
    ('clause', 'message', 'kind'),
    [
        ('ho1', 'toys_epie finds other', own(name='other')),
        ('ho2', 'through the host, another object', own(reconstruct=tired)),
        ('ho3', 'no exception was raised', own(reconstruct=swallowing)),
        ('ho3', 'I am hurt', own(reconstruct=sulking)),
    ],
)
def test_a_broken_algorithm_fails_in_the_host(clause, message, kind):
    class Contract(EpieHostContract):
        pass

    Contract.kind = kind
    with pytest.raises(FAILED, match=message):
        clause_of(Contract(), clause)()


def test_an_algorithm_that_is_not_there_fails_in_the_host():
    class Contract(EpieHostContract):
        algorithm = 'toys_other'

        def open_core(self):
            return super(EpieHostContract, self).open_core()

    with pytest.raises(FAILED, match='toys_other is not among'):
        Contract().test_ho1_it_is_in_the_menu()


def test_every_clause_is_seen_to_fail():
    """A new clause needs somebody who breaks it."""
    seen = {clause.partition('[')[0] for clause, *_ in (*BROKEN, *LIBRARIES)} | {'lb5'}
    clauses = {
        name.split('_')[1]
        for contract in (EpieContract, ReconstructorLibraryContract)
        for name in dir(contract)
        if name.startswith('test_')
    }
    assert clauses == seen
