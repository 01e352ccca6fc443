"""What only the notebooks and slides show: pictures that explain (`pictures`), and what moves (`explore`)."""
