# SPDX-License-Identifier: Apache-2.0
"""The epoch reaches the data, whatever wraps their loader."""

import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader, Dataset, RandomSampler
from transformers import TrainerControl, TrainerState, TrainingArguments

from seqlib.training.epochs import TellEpoch


class Epochs(Dataset):
    """Eight examples that hold nothing but their epoch."""

    epoch = 0

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.tensor(self.epoch)

    def set_epoch(self, epoch):
        self.epoch = epoch


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(("passed", "epoch"), [(None, 0), (3.0, 3), (3.5, 3)])
def test_every_process_hears_of_the_epoch(processes, passed, epoch, tmp_path):
    data = Epochs()
    loader = prepare_data_loader(
        DataLoader(data, batch_size=2, sampler=RandomSampler(data)),
        num_processes=processes,
        process_index=0,
        use_seedable_sampler=True,
        put_on_device=False,
    )
    args = TrainingArguments(str(tmp_path), report_to=[], use_cpu=True)
    state = TrainerState(epoch=passed)
    TellEpoch().on_epoch_begin(args, state, TrainerControl(), train_dataloader=loader)
    loader.set_epoch(epoch)
    assert all(batch.tolist() == [epoch, epoch] for batch in loader)
