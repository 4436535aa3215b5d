"""The course's lectures as programs: each module with a command is one lecture."""
