"""The benchmark of smtphooks and its peers; C{README.rst} says what is measured and how to read it."""
