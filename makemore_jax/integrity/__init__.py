"""Protection of a working directory: checksums, retries, a lock, one run per directory.

    manifest.py     hashes of the files of a checkpoint
    retries.py      repeated reads while a running training replaces the checkpoint
    checkpoints.py  `Checkpoints` with both, for several processes
    lock.py         one training per working directory
    finite.py       a state that has diverged is not saved
    stranger.py     limits on a run folder that someone else made
    resume.py       a run is resumed with the same data and model only

orbax does not checksum array data, and a training deletes checkpoints that another program may be
reading. The core works without this package.
"""
