"""The kill matrix of C{make chaos}: deliveries are broken under load, and what had a 250 must be there."""
