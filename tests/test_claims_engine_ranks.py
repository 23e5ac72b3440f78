"""Claims about ranks and the parts of a batch, with stand-ins for the other ranks."""
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from engine import batch_parts, devices, distributed
from engine.batch_parts import count_of_parts, parts_of
from utils.io import UserError

CPU = torch.device("cpu")


@pytest.fixture
def ranks(monkeypatch):
    """Make this process one rank of several. The others' values: what `others` says."""
    def become(rank, count, others=()):
        def gather(values, value):
            assert len(values) == count
            values[:] = [*others[:rank], value, *others[rank:]]

        def gather_rows(parts, padded):
            for part, rows in zip(parts, [*others[:rank], padded, *others[rank:]]):
                part.copy_(rows)
        stand_in = SimpleNamespace(
            is_available=lambda: True, is_initialized=lambda: True, get_rank=lambda: rank, get_world_size=lambda: count,
            all_gather_object=gather, all_gather=gather_rows, ReduceOp=SimpleNamespace(MAX="max"),
            gather_object=lambda value, values: values is None or gather(values, value),
            all_reduce=lambda tensor, op=None: tensor.fill_(max(tensor, *others)) if op == "max" else tensor.add_(
                sum(others)), broadcast_object_list=lambda box: box.__setitem__(0, others[0] if rank else box[0]))
        monkeypatch.setattr(distributed, "dist", stand_in)
    return become


# ---- one process or several ----

@pytest.mark.parametrize(("world", "there", "joined"), [
    (None, False, 0), ("1", False, 0), ("2", False, 1), ("2", True, 0), ("8", False, 1)])
def test_processes_are_joined_when_torchrun_started_several(monkeypatch, world, there, joined):
    calls = []
    monkeypatch.setattr(distributed, "dist", SimpleNamespace(
        is_initialized=lambda: there, init_process_group=calls.append))
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if world:
        monkeypatch.setenv("WORLD_SIZE", world)
    for gpu, backend in ((False, "gloo"), (True, "cpu:gloo,cuda:nccl")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpu=gpu: gpu)
        calls.clear()
        distributed.start()
        assert calls == [backend] * joined


def test_one_process_is_rank_zero_of_one():
    assert distributed.rank_and_world_size() == (0, 1) and distributed.is_main() and not distributed.is_distributed()
    assert distributed.rank_suffix() == "" and distributed.launcher() == "python"
    value, tensor = object(), torch.arange(3)
    assert distributed.gather_to_main(value) == distributed.all_gather_object(value) == [value]
    assert distributed.broadcast_from_main(value) is value and distributed.all_reduce_max(3) == 3
    assert distributed.all_reduce_sum(tensor) is tensor and distributed.all_gather_rows(tensor, [7]) is tensor


def test_messages_name_the_rank_and_the_launcher(ranks, monkeypatch):
    ranks(2, 3)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert distributed.rank_suffix() == ", rank 2" and distributed.launcher() == "torchrun --nproc_per_node=3"
    assert distributed.rank_and_world_size() == (2, 3) and not distributed.is_main()


def test_each_rank_takes_the_gpu_of_its_number(ranks, monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setenv("LOCAL_RANK", "3")
    gpu, second = torch.device("cuda"), torch.device("cuda", 1)
    assert distributed.local_device(gpu) == gpu and not chosen
    ranks(3, 4)
    assert distributed.local_device(CPU) == CPU and distributed.local_device(second) == second and not chosen
    assert distributed.local_device(gpu) == torch.device("cuda", 3) and chosen == [torch.device("cuda", 3)]


def test_values_of_all_ranks_come_in_their_order(ranks):
    ranks(1, 3, ["first", "third"])
    assert distributed.all_gather_object("second") == ["first", "second", "third"]
    assert distributed.broadcast_from_main("second") == "first" and distributed.gather_to_main("second") is None
    ranks(0, 3, ["second", "third"])
    assert distributed.gather_to_main("first") == ["first", "second", "third"]
    assert distributed.broadcast_from_main("first") == "first"
    ranks(0, 3, [2, 5])
    assert distributed.all_reduce_max(4) == 5 and distributed.all_reduce_max(15) == 15
    assert distributed.all_reduce_sum(torch.tensor(4)) == 11


def test_rows_of_ranks_with_unlike_many_are_joined_without_padding(ranks):
    others = torch.tensor([[5.0, 6], [7, 8], [9, 0]])
    ranks(0, 2, [others])
    found = distributed.all_gather_rows(torch.tensor([[1.0, 2]]), [1, 3])
    assert found.tolist() == [[1, 2], [5, 6], [7, 8], [9, 0]]
    ranks(1, 2, [others])
    assert distributed.all_gather_rows(torch.tensor([[1.0, 2], [3, 4]]), [3, 2])[3:].tolist() == [[1, 2], [3, 4]]


def test_a_failure_of_any_rank_ends_all_with_its_message(ranks):
    with distributed.raise_on_all_ranks(UserError):
        pass
    with pytest.raises(UserError, match="own"), distributed.raise_on_all_ranks(UserError):
        raise UserError("own")
    with pytest.raises(KeyError), distributed.raise_on_all_ranks(UserError):
        raise KeyError("of another kind")
    ranks(0, 2, ["the other's"])
    with pytest.raises(UserError, match="the other's"), distributed.raise_on_all_ranks(UserError):
        pass


def test_gradients_are_averaged_in_the_last_pass_only(ranks, monkeypatch):
    wrapped = SimpleNamespace(no_sync=lambda: "no sync")
    assert all(distributed.no_sync(wrapped, last) != "no sync" for last in (True, False))
    assert distributed.wrap_ddp(wrapped, CPU) is wrapped
    ranks(0, 2)
    assert distributed.no_sync(wrapped, True) != "no sync" and distributed.no_sync(wrapped, False) == "no sync"
    monkeypatch.setattr(distributed, "DistributedDataParallel", lambda module, device_ids: (module, device_ids))
    gpu = torch.device("cuda", 1)
    assert distributed.wrap_ddp(wrapped, CPU) == (wrapped, None) and distributed.wrap_ddp(wrapped, gpu)[1] == [gpu]


# ---- batch statistics over ranks ----

def test_statistics_over_ranks_are_those_of_the_whole_batch(monkeypatch):
    """This rank has the first three of eight images; the others' sums are added as they would be."""
    torch.manual_seed(0)
    whole = torch.randn(8, 4, 5, 5) * 2 + 1
    plain, model = nn.BatchNorm2d(4), nn.Sequential(nn.Sequential(nn.BatchNorm2d(4)), nn.BatchNorm1d(4))
    for norm in (plain, model[0][0]):
        nn.init.uniform_(norm.weight), nn.init.uniform_(norm.bias)
        norm.momentum, norm.eps = 0.3, 0.5
    model[0][0].load_state_dict(plain.state_dict())
    monkeypatch.setattr(distributed, "is_distributed", lambda: True)
    assert distributed.convert_sync_batchnorm(model, CPU) is model and type(model[1]) is nn.BatchNorm1d
    assert type(model[0][0]) is distributed.CpuSyncBatchNorm
    others, mean = whole[3:], whole.mean((0, 2, 3)).view(1, -1, 1, 1)

    def summed(tensor):
        if len(tensor) == 5:  # sums and the count
            return tensor + torch.cat([others.sum((0, 2, 3)), torch.tensor([5 * 25.0])])
        return tensor + (others - mean).square().sum((0, 2, 3))
    monkeypatch.setattr(distributed, "all_reduce_sum", summed)
    assert torch.allclose(model[0](whole[:3]), plain(whole)[:3], atol=1e-5)
    for name, value in plain.state_dict().items():
        assert torch.allclose(model[0][0].state_dict()[name], value, rtol=1e-5), name
    monkeypatch.setattr(distributed, "all_reduce_sum", None)  # not asked in evaluation
    assert torch.allclose(model.eval()[0](whole), plain.eval()(whole), atol=1e-5)
    assert model[0][0].num_batches_tracked == 1
    on_gpus = distributed.convert_sync_batchnorm(nn.Sequential(nn.BatchNorm2d(4)), torch.device("cuda"))
    assert type(on_gpus[0]) is nn.SyncBatchNorm


def test_the_gradient_of_a_sum_over_ranks_is_the_sum_of_gradients(monkeypatch):
    monkeypatch.setattr(distributed, "all_reduce_sum", lambda tensor: tensor.mul_(3))
    x = torch.ones(2, requires_grad=True)
    total = distributed.AllReduceSum.apply(x)
    assert total.tolist() == [3, 3] and x.tolist() == [1, 1]
    given = torch.tensor([1.0, 2])
    total.backward(given)
    assert x.grad.tolist() == [3, 6] and given.tolist() == [1, 2]


# ---- parts of a batch ----

@pytest.mark.parametrize(("size", "micro", "per_class", "world", "parts"), [
    (10, 0, 0, 1, 1), (10, 4, 0, 1, 3), (8, 4, 0, 1, 2), (9, 4, 0, 1, 3), (10, 10, 0, 1, 1), (10, 4, 0, 2, 2),
    (8, 4, 0, 2, 1), (16, 4, 4, 1, 4), (16, 6, 4, 1, 4), (16, 8, 4, 1, 2), (16, 4, 8, 1, 2), (16, 4, 1, 1, 4),
    (10, 3, 0, 1, 4), (7, 1, 0, 1, 7)])
def test_a_batch_has_as_few_micro_batches_as_fit(monkeypatch, size, micro, per_class, world, parts):
    monkeypatch.setattr(distributed, "rank_and_world_size", lambda: (0, world))
    assert count_of_parts(size, SimpleNamespace(micro_batch=micro, per_class=per_class)) == parts


class Loss:
    """A TrainingLoss as parts_of knows it: preprocessing turns a batch around."""

    def __init__(self, mixes=False, reorders=False):
        self.mixes, self.reorders = mixes, reorders

    def preprocess(self, inputs, targets):
        return (inputs.flip(-4), targets.flip(-1)) if self.mixes or self.reorders else (inputs, targets)

    def split_targets(self, targets):
        return targets[..., None].expand(*targets.shape, 4), targets * 10, targets * 100


def numbered(n):
    return torch.arange(float(n)).view(n, 1, 1, 1).expand(n, 3, 2, 2).clone()


def test_parts_have_their_rows_and_shares():
    recipe, images, labels = SimpleNamespace(micro_batch=3, per_class=0), numbered(8), torch.arange(8)
    parts = list(parts_of(Loss(), (images, labels, None, None), 8, recipe, CPU))
    assert [len(part[0]) for part in parts] == [len(part[1]) for part in parts] and torch.equal(
        torch.cat([part[0] for part in parts]), images)
    assert torch.cat([part[1] for part in parts]).tolist() == list(range(8))
    assert all(part[2] is part[3] is part[4] is None for part in parts)
    assert [part[5] for part in parts] == [part[6] for part in parts] == [len(part[1]) / 8 for part in parts]


def test_outliers_are_split_by_their_own_number_and_shown_labels_by_the_batchs():
    recipe, images, labels = SimpleNamespace(micro_batch=2, per_class=0), numbered(4), torch.arange(4)
    outliers = list(parts_of(Loss(), (images, labels, numbered(10), None), 4, recipe, CPU))
    assert [part[2][:, 0, 0, 0].tolist() for part in outliers] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert [(part[3], part[5], part[6]) for part in outliers] == [(None, 0.5, 0.5)] * 2
    recipe, images, labels = SimpleNamespace(micro_batch=4, per_class=4), numbered(12), torch.arange(12)
    shown = list(parts_of(Loss(), (images, labels, images, labels), 12, recipe, CPU))
    assert all(torch.equal(part[3], part[1]) and torch.equal(part[2], part[0]) and part[5] == part[6] for part in shown)
    uneven = SimpleNamespace(micro_batch=2, per_class=2)  # 6 images of 3 classes in 3 parts: 2 each
    assert [part[1].tolist() for part in parts_of(Loss(), (images[:6], labels[:6], None, None), 6, uneven, CPU)] == [
        [0, 1], [2, 3], [4, 5]]


def test_a_batch_for_each_member_is_split_by_images():
    recipe, labels = SimpleNamespace(micro_batch=2, per_class=0), torch.arange(5)
    images = torch.stack([numbered(5)] * 2)
    parts = list(parts_of(Loss(), (images, labels.expand(2, -1), images[0], labels), 5, recipe, CPU))
    assert [part[0].shape[:2] for part in parts] == [part[1].shape for part in parts] and torch.equal(
        torch.cat([part[0] for part in parts], 1), images)
    assert all(torch.equal(part[1][1], part[3]) and torch.equal(part[2], part[0][0]) for part in parts)


def test_what_is_mixed_is_mixed_before_it_is_split():
    recipe, labels = SimpleNamespace(micro_batch=2, per_class=0), torch.arange(4)
    parts = list(parts_of(Loss(mixes=True), (numbered(4), labels, None, None), 4, recipe, CPU))
    assert [part[1].tolist() for part in parts] == [[3, 2], [1, 0]]
    assert [part[0][:, 0, 0, 0].tolist() for part in parts] == [[3, 2], [1, 0]]
    assert [[rows.tolist() for rows in part[4]] for part in parts] == [
        [[[3] * 4, [2] * 4], [30, 20], [300, 200]], [[[1] * 4, [0] * 4], [10, 0], [100, 0]]]
    assert parts_of(Loss(reorders=True), (numbered(4), labels, None, None), 4, recipe, CPU).__next__()[4] is None


def test_classes_stay_together_after_a_shuffle():
    """Only where images of a class are compared: two classes of two, which preprocessing puts in another order."""
    labels, recipe = torch.tensor([0, 0, 1, 1]), SimpleNamespace(micro_batch=2, per_class=2)
    parts = list(parts_of(Loss(reorders=True), (numbered(4), labels, None, None), 4, recipe, CPU))
    assert [part[1].tolist() for part in parts] == [[0, 0], [1, 1]]
    assert [part[0][:, 0, 0, 0].tolist() for part in parts] == [[1, 0], [3, 2]]  # turned around, then by class


def test_each_rank_gets_its_rows_of_the_whole_mixed_batch(monkeypatch):
    """The second of two ranks, with a batch of three for each and grayscale images in one channel."""
    whole, labels = numbered(6), torch.arange(6)
    monkeypatch.setattr(distributed, "rank_and_world_size", lambda: (1, 2))
    monkeypatch.setattr(distributed, "all_gather_rows", lambda rows, counts: counts == [3, 3] and (
        labels if rows.dim() == 1 else whole[:, : rows.shape[1]]))
    gray = whole[3:, :1].expand(-1, 3, -1, -1)
    recipe = SimpleNamespace(micro_batch=0, per_class=0)
    (inputs, targets, *_, split, share, _), = parts_of(
        Loss(mixes=True), (gray, labels[3:], None, None), 6, recipe, CPU)
    assert targets.tolist() == [2, 1, 0] and inputs[:, 2, 0, 0].tolist() == [2, 1, 0] and share == 0.5
    assert inputs.shape == (3, 3, 2, 2) and split[1].tolist() == [20, 10, 0]
    own, theirs = torch.stack([whole, whole + 10]), torch.stack([labels, labels + 10])  # a batch for each member
    monkeypatch.setattr(distributed, "all_gather_rows", lambda rows, counts: (
        theirs if rows.dim() == 2 else own).movedim(1, 0) if len(rows) == 3 else None)
    (inputs, targets, *_, split, _, _), = parts_of(
        Loss(mixes=True), (own[:, 3:], theirs[:, 3:], None, None), 6, recipe, CPU)
    assert targets.tolist() == [[2, 1, 0], [12, 11, 10]] and torch.equal(inputs[..., 0, 0, 0].long(), targets)
    assert split[0][..., 0].tolist() == targets.tolist() and split[2].tolist() == (targets * 100).tolist()


@pytest.mark.parametrize("main", [True, False])
def test_other_ranks_draw_rank_zeros_numbers_and_keep_their_own(monkeypatch, main):
    torch.manual_seed(7)
    theirs, expected = devices.rng_state(CPU), torch.rand(3)
    torch.manual_seed(8)
    own = torch.get_rng_state()
    monkeypatch.setattr(distributed, "is_distributed", lambda: True)
    monkeypatch.setattr(distributed, "is_main", lambda: main)
    monkeypatch.setattr(distributed, "broadcast_from_main", lambda state: theirs)
    with batch_parts.rng_of_main_rank(CPU):
        assert torch.equal(torch.rand(3), expected)
    assert torch.equal(torch.get_rng_state(), own) != main
    monkeypatch.undo()
    with batch_parts.rng_of_main_rank(CPU):
        pass
