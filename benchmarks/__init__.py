"""The benchmark of smtphooks beside its peers; C{README.rst} says what is measured and how to read it."""
