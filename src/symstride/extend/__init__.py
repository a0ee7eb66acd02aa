"""Active extension: a model learns where its runs raise the alarm, until they do no more."""
