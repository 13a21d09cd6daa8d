"""The sections of a report: a function for each, which gives its contents, or nothing to leave it out."""
