"""A mesh of real processes whose replicas are killed, frozen and drained under load: nobody may notice."""
