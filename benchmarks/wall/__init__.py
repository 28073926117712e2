"""The wall: public ResNets in several frameworks, same or not, and why."""
