# Sourced by ros_env.sh and ros_run.sh with `root` set: where the ROS distribution of EGM_ROS_DISTRO (jazzy or kilted) lives.
distro=${EGM_ROS_DISTRO:-jazzy}
case $distro in
  jazzy) venv=$root/.venv-ros constraints=.ci/constraints/ros.txt underlay=$root/.ci/ros_underlay workspace=$root/ros2_ws ;;
  kilted)
    venv=$root/.venv-ros-kilted constraints=.ci/constraints/ros-kilted.txt
    underlay=$root/.ci/cache/kilted/underlay workspace=$root/.ci/cache/kilted/ros2_ws
    ;;
  *) echo "expected EGM_ROS_DISTRO jazzy or kilted; found $distro; set one of them" >&2; exit 2 ;;
esac
