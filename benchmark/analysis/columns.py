"""What the columns of an attack are of, where that is not what they are of elsewhere (quirk q14 of the GAN)."""

from benchmark.matrix.expand import Job

METRIC = "column_as_named"  # in the tidy frame: 1 where fitted and scored as the split says, 0 with quirk q14
NOTE = (
    "most likely, not known to be, what the printed column is (quirk q14, docs/PROTOCOLS.md): one fit, on the training "
    "images; train is its error on its own last epoch's batches, infer that on the whole test set"
)


def as_named(job: Job) -> bool:
    return not job.config["quirks"].get("q14_gan_single_fit")
