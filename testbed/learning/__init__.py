"""What is learned: gradients and evaluations of flat float32 vectors, on this machine's processor or GPU.

learner.py says what a learner is and builds one. networks.py, device.py and threads.py are the
door to torch, which only a GPU needs.
"""
