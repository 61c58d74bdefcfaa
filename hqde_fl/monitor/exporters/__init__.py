"""Programs that a monitor publishes its records to while a run goes on."""
