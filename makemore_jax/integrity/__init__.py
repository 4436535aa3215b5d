"""Protection of a working directory: checksums, verification, a lock, one run per directory.

    manifest.py     hashes of the files of a checkpoint
    failures.py     a full disk or a folder that is gone, as one line
    checkpoints.py  `Checkpoints` with verification, fallback and several processes
    finite.py       a state that has diverged is not saved
    untrusted.py    limits on a run folder that someone else made
    lock.py         one training per working directory
    moved_data.py   the data file of a run that was moved
    runs.py         one-line errors for the files of a run
    resume.py       a run is resumed with the same data and model only
    run_files.py    the files of a resumed run, as of its last checkpoint

orbax does not checksum array data, and a training deletes checkpoints that another program may be
reading. The core works without this package.
"""
